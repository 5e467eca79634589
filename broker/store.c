/* SPDX-License-Identifier: MIT */
#include "broker/store.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"
#include "common/packet.h"

/* #syscalls:broker sendmsg sendto */

/* The kernel keeps some messages for a supervisor who is busy; then the sender waits, the control thread: not for long. */
#define PATIENCE_S 2

static unsigned store_size(void) {
        const char *text = getenv("FDSTORE");
        unsigned long n;
        char *end;

        if (!text || !*text)
                return 0;
        errno = 0;
        n = strtoul(text, &end, 10);
        if (*end || errno || n > 1u << 20) {
                log_warning("$FDSTORE=%s: not a number of descriptors", text);
                return 0;
        }
        return (unsigned) n;
}

static void free_names(char **names) {
        for (char **name = names; name && *name; name++)
                free(*name);
        free(names);
}

bool store_is_left(void) {
        const char *names = getenv("LISTEN_FDNAMES"), *pid = getenv("LISTEN_PID");

        if (!names || !pid || strtol(pid, NULL, 10) != (long) getpid())
                return false;
        return strncmp(names, "pb-", 3) == 0 || strstr(names, ":pb-");
}

int store_open(struct store *store, int notify) {
        char **names = NULL;
        int n = sd_listen_fds_with_names(1, &names);

        *store = (struct store) { .notify = notify };
        if (n < 0) {
                log_error("$LISTEN_FDS: %s", strerror(-n));
                return n;
        }
        store->items = calloc((size_t) n + 1, sizeof *store->items);
        for (int i = 0; i < n && store->items; i++) {
                int fd = SD_LISTEN_FDS_START + i;

                if (strncmp(names[i], "pb-", 3) == 0) {
                        struct store_item *item = &store->items[store->n_items++];

                        (void) snprintf(item->name, sizeof item->name, "%s", names[i]);
                        item->fd = fd;
                } else if (store->n_passed < ELEMENTS(store->passed))
                        store->passed[store->n_passed++] = fd;
                else
                        (void) fd_close(fd);
        }
        free_names(names);
        if (!store->items)
                return -ENOMEM;
        if (notify >= 0) {
                store->size = store_size();
                store->used = store->n_items;
                (void) setsockopt(notify, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval) { .tv_sec = PATIENCE_S },
                                  sizeof(struct timeval));
        }
        return 0;
}

void store_done(struct store *store) {
        for (unsigned i = 0; i < store->n_items; i++)
                (void) fd_close(store->items[i].fd);
        free(store->items);
        *store = (struct store) { .notify = -1 };
}

int store_find(const struct store *store, const char *name) {
        for (unsigned i = 0; i < store->n_items; i++)
                if (store->items[i].fd >= 0 && strcmp(store->items[i].name, name) == 0)
                        return store->items[i].fd;
        return -1;
}

int store_take(struct store *store, const char *name) {
        for (unsigned i = 0; i < store->n_items; i++)
                if (store->items[i].fd >= 0 && strcmp(store->items[i].name, name) == 0)
                        return fd_take(&store->items[i].fd);
        return -1;
}

static struct store_item *find_prefix(struct store *store, const char *prefix) {
        for (unsigned i = 0; i < store->n_items; i++)
                if (store->items[i].fd >= 0 && strncmp(store->items[i].name, prefix, strlen(prefix)) == 0)
                        return &store->items[i];
        return NULL;
}

int store_take_prefix(struct store *store, const char *prefix, char ret_name[STORE_NAME_SIZE]) {
        struct store_item *item = find_prefix(store, prefix);

        if (!item)
                return -1;
        memcpy(ret_name, item->name, STORE_NAME_SIZE);
        return fd_take(&item->fd);
}

int store_take_old(struct store *store, const char *prefix) {
        struct store_item *item = find_prefix(store, prefix);

        if (!item)
                return -1;
        item->old = true;
        return fd_take(&item->fd);
}

int store_keep(struct store *store, const char *name, const int *fds, unsigned n_fds) {
        char text[128];
        int r;

        if (store->used + n_fds > store->size)
                return -ENOSPC;
        /* FDPOLL=0: a userfaultfd or pidfd that polls as hung up is kept nevertheless. */
        (void) snprintf(text, sizeof text, "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
        r = packet_send(store->notify, text, strlen(text), fds, n_fds, 0);
        if (r == 0)
                store->used += n_fds;
        return r;
}

void store_drop(struct store *store, const char *name, unsigned n_fds) {
        char text[128];

        (void) snprintf(text, sizeof text, "FDSTOREREMOVE=1\nFDNAME=%s", name);
        /* What stays by mistake is found and removed by the next broker: the ledger does not know it. */
        if (send(store->notify, text, strlen(text), MSG_NOSIGNAL) < 0)
                log_warning("cannot remove %s from the supervisor's store: %s", name, strerror(errno));
        store->used -= (unsigned) min_u64(n_fds, store->used);
}

void store_drop_old(struct store *store) {
        for (unsigned i = 0; i < store->n_items; i++)
                if (store->items[i].old) {
                        store_drop(store, store->items[i].name, 1);
                        store->items[i].old = false;
                }
}

void store_drop_rest(struct store *store) {
        for (unsigned i = 0; i < store->n_items; i++)
                if (store->items[i].fd >= 0) {
                        store_drop(store, store->items[i].name, 1);
                        store->items[i].fd = fd_close(store->items[i].fd);
                }
}

/* sd_notify_barrier(3), over the socket that we have: the other end of a pipe is closed by who takes the message. */
int store_barrier(struct store *store, uint64_t timeout_us) {
        _cleanup_close_ int ours = -1, theirs = -1;
        int pipe_fds[2], r;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return -errno;
        ours = pipe_fds[0];
        theirs = pipe_fds[1];
        r = packet_send(store->notify, "BARRIER=1", 9, &theirs, 1, 0);
        theirs = fd_close(theirs);
        if (r < 0)
                return r;
        do
                r = poll(&(struct pollfd) { .fd = ours }, 1, (int) (timeout_us / USEC_PER_MSEC));
        while (r < 0 && errno == EINTR);
        return r < 0 ? -errno : r == 0 ? -ETIMEDOUT : 0;
}
