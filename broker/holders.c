/* SPDX-License-Identifier: MIT */
#include "broker/holders.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/broker.h"
#include "broker/connection.h"
#include "broker/hotplug.h"
#include "broker/kill-point.h"
#include "broker/ledger.h"
#include "broker/peer.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker clock_gettime */

#define NAMED_PEERS_MAX 4u

static uint32_t get_pluggable(const struct broker *broker) {
        uint32_t pluggable = 0;

        for (unsigned i = 0; i < broker->n_memories; i++)
                if (broker->memories[i]->pluggable)
                        pluggable |= 1u << i;
        return pluggable;
}

bool holder_has(const struct connection *connection, const struct memory *memory) {
        return connection->has_session && (connection->fd >= 0 || connection->lost) &&
               connection->given & 1u << memory->index;
}

static void PRINTF_LIKE(4, 5) append(char *names, size_t size, size_t *at, const char *format, ...) {
        va_list args;
        int n;

        if (*at >= size)
                return;
        va_start(args, format);
        n = vsnprintf(names + *at, size - *at, format, args);
        va_end(args);
        *at += n > 0 ? (size_t) n : 0;
}

/* A peer's name is valid as long as it is in the list. */
static unsigned count_peers(struct memory *memory, bool first, char *names, size_t size, size_t *at) {
        unsigned n;

        (void) pthread_mutex_lock(&memory->peers_lock);
        n = memory->n_peers;
        for (unsigned i = 0; i < min_u64(n, NAMED_PEERS_MAX); i++)
                append(names, size, at, "%suserfaultfd %s", first && i == 0 ? "" : ", ", peer_name(memory->peers[i]));
        (void) pthread_mutex_unlock(&memory->peers_lock);
        if (n > NAMED_PEERS_MAX)
                append(names, size, at, " and %u more", n - NAMED_PEERS_MAX);
        return n;
}

unsigned holders_count(const struct broker *broker, struct memory *memory, char *ret_names, size_t size) {
        const struct connection *connection;
        unsigned n = 0;
        size_t at = 0;

        ret_names[0] = 0;
        DL_FOREACH (broker->connections, connection) {
                if (!holder_has(connection, memory))
                        continue;
                append(ret_names, size, &at, "%s%s (pid %d)%s", n ? ", " : "", connection->name,
                       (int) connection->credentials.pid,
                       connection->lost         ? ", whose connection is gone"
                       : connection->hotplug ? ""
                                             : ", which cannot let go");
                n++;
        }
        return n + count_peers(memory, n == 0, ret_names, size, &at);
}

/* ---- the next broker's ---- */

static uint64_t now_boottime_us(void) {
        struct timespec now;

        (void) clock_gettime(CLOCK_BOOTTIME, &now);
        return (uint64_t) now.tv_sec * USEC_PER_SEC + (uint64_t) now.tv_nsec / NSEC_PER_USEC;
}

static struct ledger_holder *take_entry(struct ledger_data *ledger) {
        for (unsigned i = 0; i < LEDGER_HOLDERS_MAX; i++)
                if (ledger->holders[i].memories == 0)
                        return &ledger->holders[i];
        ledger->holders_missing = 1;
        return NULL;
}

void holder_note(struct connection *connection) {
        const struct broker *broker = connection->broker;
        uint32_t held = connection->has_session ? connection->given & get_pluggable(broker) : 0;
        struct ledger_holder *entry = connection->holder;

        /* Whoever comes after us finds them as they are. */
        if (!broker->ledger || broker->stopping)
                return;
        if (!entry && held) {
                entry = take_entry(broker->ledger->data);
                if (!entry)
                        return;
                entry->pid = connection->credentials.pid;
                entry->uid = connection->credentials.uid;
                entry->account = connection->account;
                entry->role = connection->role;
                entry->since_us = now_boottime_us();
                entry->ring_inode = connection->ring_inode;
                memcpy(entry->name, connection->name, sizeof entry->name);
                connection->holder = entry;
        }
        if (entry)
                __atomic_store_n(&entry->memories, held, __ATOMIC_RELEASE);
        if (!held)
                connection->holder = NULL;
}

/* ---- comings and goings ---- */

void holder_hang_up(struct connection *connection) {
        connection->given &= get_pluggable(connection->broker);
        connection->lost = connection->has_session && connection->given != 0;
        if (!connection->lost)
                connection->given = 0;
        connection->told = 0;
        holder_note(connection);
}

void holder_drop(struct connection *connection) {
        bool lost = connection->lost;

        connection->given = 0;
        connection->lost = false;
        holder_note(connection);
        if (lost && connection->broker->event)
                hotplug_check(connection->broker);
}

/* The ring says who it is: nobody else has it. */
static bool was_before(const struct connection *connection, const struct connection *other) {
        return other != connection && other->lost && other->ring_inode != 0 &&
               other->ring_inode == connection->ring_inode && other->credentials.pid == connection->credentials.pid;
}

void holder_supersede(struct connection *connection) {
        struct connection *other;

        DL_FOREACH (connection->broker->connections, other) {
                if (!was_before(connection, other))
                        continue;
                holder_drop(other);
                if (other->n_peers == 0)
                        connection_release(other);
        }
}

bool holders_have_room(const struct connection *connection, uint64_t ring_inode) {
        const struct broker *broker = connection->broker;
        uint64_t limit = broker->options->client_limit, n = 0;
        const struct connection *other;
        uid_t uid = connection->credentials.uid;

        if (uid != 0 && uid != broker->uid)
                limit = max_u64(limit / 4, 1);
        DL_FOREACH (broker->connections, other) {
                if (ring_inode != 0 && other->ring_inode == ring_inode)
                        return true; /* it takes that one's place */
                n += other->lost && other->credentials.uid == uid;
        }
        return n < limit;
}

/* ---- after a restart ---- */

/* Field 22 of /proc/PID/stat, in ticks since the boot; 0: unknown. The name in field 2 may hold anything. */
static uint64_t get_start_us(pid_t pid) {
        char path[64], text[1024], *at;
        uint64_t ticks = 0;
        ssize_t n;
        int fd;

        (void) snprintf(path, sizeof path, "/proc/%d/stat", (int) pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return 0;
        n = read(fd, text, sizeof text - 1);
        (void) fd_close(fd);
        if (n <= 0)
                return 0;
        text[n] = 0;
        at = strrchr(text, ')');
        for (unsigned field = 2; at && field < 22; field++)
                at = strchr(at + 1, ' ');
        if (at)
                ticks = strtoull(at, NULL, 10);
        return ticks * USEC_PER_SEC / (uint64_t) sysconf(_SC_CLK_TCK);
}

/* -ESRCH: it has ended, whoever has its number now. */
static int open_holder(const struct ledger_holder *entry) {
        _cleanup_close_ int pidfd = -1;

        if (entry->pid <= 0)
                return -EINVAL;
        pidfd = (int) syscall(SYS_pidfd_open, entry->pid, 0);
        if (pidfd < 0)
                return errno == ESRCH ? -ESRCH : -errno;
        if (poll(&(struct pollfd) { .fd = pidfd, .events = POLLIN }, 1, 0) != 0 ||
            get_start_us(entry->pid) > entry->since_us)
                return -ESRCH;
        return fd_take(&pidfd);
}

int holders_restore(struct broker *broker) {
        for (unsigned i = 0; i < LEDGER_HOLDERS_MAX; i++) {
                struct ledger_holder *entry = &broker->ledger->data->holders[i];
                int pidfd, r;

                if (entry->memories == 0)
                        continue;
                pidfd = open_holder(entry);
                if (pidfd == -ESRCH) {
                        entry->memories = 0;
                        continue;
                }
                if (pidfd < 0 && entry->pid > 0)
                        return pidfd;
                /* One that cannot be watched is waited for a while. */
                r = connection_restore_holder(broker, entry, pidfd < 0 ? -1 : pidfd);
                if (r < 0)
                        return r;
                KILL_POINT("takeover-holder");
        }
        return 0;
}
