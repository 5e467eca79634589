/* SPDX-License-Identifier: MIT */
/* Userfaultfds across lives of the broker. All of them are in the store, those of linked clients too: the thread that could
 * present one is most likely the one that waits in a fault on it. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/broker.h"
#include "broker/connection.h"
#include "broker/kill-point.h"
#include "broker/ledger.h"
#include "broker/peer.h"
#include "broker/restart.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker pidfd_open poll */

static void peer_store_name(char ret[STORE_NAME_SIZE], uint32_t id) {
        (void) snprintf(ret, STORE_NAME_SIZE, "pb-peer-%u", id);
}

static bool has_ended(int pidfd) {
        return poll(&(struct pollfd) { .fd = pidfd, .events = POLLIN }, 1, 0) != 0;
}

/*
 * A pidfd of its own for each peer: systemd keeps the same open file once, under the first name. While the other one has
 * not fired, the number is still that process's.
 */
static int open_pidfd_again(int pid, int pidfd) {
        _cleanup_close_ int again = pid > 0 ? (int) syscall(SYS_pidfd_open, pid, 0) : -1;

        return again < 0 || has_ended(pidfd) ? -1 : fd_take(&again);
}

int restart_enter_peer(struct broker *broker, uint32_t id, const char *name, bool privileged, int pid, uint32_t uid,
                       uint32_t account, int pidfd, int uffd, struct ledger_peer **ret_entry) {
        _cleanup_close_ int again = -1;
        struct ledger_peer *entry;
        char stored[STORE_NAME_SIZE];
        int r;

        if (broker->store.size == 0)
                return 0;
        again = open_pidfd_again(pid, pidfd);
        if (again < 0)
                return -ESRCH;
        entry = ledger_peer_take(broker->ledger);
        if (!entry)
                return -ENOSPC;
        /* First there, then in the ledger: what the ledger does not know is dropped by the next broker. */
        peer_store_name(stored, id);
        broker->ledger->data->last_peer_id = id;
        r = store_keep(&broker->store, stored, (int[]) { uffd, again }, 2);
        if (r < 0) {
                ledger_peer_release(broker->ledger, entry);
                return r;
        }
        KILL_POINT("attach-kept");
        entry->privileged = privileged;
        entry->pid = pid;
        entry->uid = uid;
        entry->account = account;
        (void) snprintf(entry->name, sizeof entry->name, "%s", name);
        ledger_peer_enter(entry, id);
        KILL_POINT("attach-entered");
        *ret_entry = entry;
        return 0;
}

static void drop_entry(struct broker *broker, struct ledger_peer *entry, unsigned n_fds) {
        char stored[STORE_NAME_SIZE];

        peer_store_name(stored, entry->id);
        ledger_peer_clear(entry);
        store_drop(&broker->store, stored, n_fds);
}

void restart_leave_peer(struct broker *broker, struct ledger_peer *entry) {
        if (!entry)
                return;
        drop_entry(broker, entry, 2);
        ledger_peer_release(broker->ledger, entry);
}

void restart_forget_peer(struct broker *broker, const struct peer *peer) {
        struct ledger_peer *entry = peer_entry(peer);

        if (entry && !broker->stopping)
                drop_entry(broker, entry, 2);
}

/* The two come in any order. */
static void take_descriptors(struct broker *broker, uint32_t id, int *ret_uffd, int *ret_pidfd) {
        char stored[STORE_NAME_SIZE];
        int fd;

        peer_store_name(stored, id);
        while ((fd = store_take(&broker->store, stored)) >= 0) {
                int *where = fd_get_kind(fd) == FD_KIND_USERFAULTFD ? ret_uffd : ret_pidfd;

                (void) fd_close(*where);
                *where = fd;
        }
}

static int take_peer(struct broker *broker, struct ledger_peer *entry) {
        _cleanup_close_ int uffd = -1, pidfd = -1;
        struct peer_options options = {
                .id = entry->id,
                .name = entry->name,
                .privileged = entry->privileged,
                .account = entry->account,
                .fault_around = broker->options->fault_around / PB_PAGE_BYTES,
                .ledger = broker->ledger,
                .entry = entry,
        };
        struct connection *connection;
        struct peer *peer;
        int r;

        take_descriptors(broker, entry->id, &uffd, &pidfd);
        if (uffd < 0 || pidfd < 0 || has_ended(pidfd)) {
                if (pidfd < 0 || uffd < 0)
                        log_warning("peer %u (%s): its descriptors are not in the supervisor's store; it is not served",
                                    entry->id, entry->name);
                drop_entry(broker, entry, (unsigned) ((uffd >= 0) + (pidfd >= 0)));
                return 0;
        }
        r = connection_restore(&connection, broker, entry, fd_take(&pidfd));
        if (r < 0)
                return r;
        options.tally = connection->tally;
        ledger_peer_keep(broker->ledger, entry);
        r = peer_new_restored(&peer, broker->pager, &options, uffd);
        if (r < 0)
                return r;
        uffd = -1;
        connection_add_peer(connection, peer, entry->id);
        return 0;
}

int restart_take_peers(struct broker *broker) {
        unsigned n = 0;
        int r;

        if (!broker->resumed)
                return 0;
        for (unsigned i = 0; i < LEDGER_PEERS_MAX; i++) {
                struct ledger_peer *entry = &broker->ledger->data->peers[i];

                if (__atomic_load_n(&entry->id, __ATOMIC_ACQUIRE) == 0)
                        continue;
                r = take_peer(broker, entry);
                if (r < 0) {
                        /* Its threads would wait for ever: rather once more, from the beginning. */
                        log_error("cannot serve peer %u again: %s", entry->id, strerror(-r));
                        return r;
                }
                n++;
                KILL_POINT("takeover-peer");
        }
        store_drop_rest(&broker->store);
        if (n > 0)
                log_info("%u userfaultfds are served again", n);
        return 0;
}
