/* SPDX-License-Identifier: MIT */
/* The client object: made from its parts, taken apart again, in the process that connected and in a child of it. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "client/client.h"
#include "client/resume.h"
#include "common/cleanup.h"
#include "common/macro.h"
#include "protocol/order.h"

/*
 * After fork() the object reads as zeros in the child (MADV_WIPEONFORK), so that its calls find version 0 without any
 * hook or lock. What follows the wiped pages is kept: the child's pb_disconnect() closes the descriptors that would
 * otherwise keep guest memory and the session alive behind the parent's back. By identity, because a child may have
 * closed them itself and got the number again for something else.
 */
struct inherited {
        unsigned n;
        struct {
                int fd;
                dev_t device;
                ino_t inode;
        } files[3 + PB_MEMORIES_MAX];
};

#define WIPED_SIZE ((sizeof(struct pb_client) + PB_PAGE_SIZE - 1) & ~(size_t) (PB_PAGE_SIZE - 1))
#define OBJECT_SIZE (WIPED_SIZE + PB_PAGE_SIZE)
static_assert(sizeof(struct inherited) <= PB_PAGE_SIZE, "one page");

static struct inherited *get_inherited(pb_client *client) {
        return (struct inherited *) (void *) ((char *) client + WIPED_SIZE);
}

static void remember_file(pb_client *client, int fd) {
        struct inherited *inherited = get_inherited(client);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return;
        inherited->files[inherited->n].fd = fd;
        inherited->files[inherited->n].device = st.st_dev;
        inherited->files[inherited->n++].inode = st.st_ino;
}

static void close_inherited(struct inherited *inherited) {
        for (unsigned i = 0; i < inherited->n; i++) {
                struct stat st;

                if (fstat(inherited->files[i].fd, &st) == 0 && st.st_dev == inherited->files[i].device &&
                    st.st_ino == inherited->files[i].inode)
                        (void) fd_close(inherited->files[i].fd);
        }
}

void client_remember_files(pb_client *client) {
        get_inherited(client)->n = 0;
        remember_file(client, client->socket);
        remember_file(client, client->completion);
        remember_file(client, client->ring_fd);
        for (unsigned i = 0; i < client->n_memories; i++)
                remember_file(client, client->memories[i].fd);
}

static int open_poll_fd(int completion, int socket, int *ret_poll, int *ret_leftover, int *ret_timer) {
        struct epoll_event event = { .events = EPOLLIN };
        _cleanup_close_ int poll_fd = -1, leftover_fd = -1, timer_fd = -1;

        poll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (poll_fd < 0)
                return -errno;
        leftover_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (leftover_fd < 0)
                return -errno;
        timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (timer_fd < 0)
                return -errno;
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, completion, &event) < 0 ||
            (socket >= 0 && epoll_ctl(poll_fd, EPOLL_CTL_ADD, socket, &event) < 0) ||
            epoll_ctl(poll_fd, EPOLL_CTL_ADD, leftover_fd, &event) < 0 ||
            epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &event) < 0)
                return -errno;
        *ret_poll = fd_take(&poll_fd);
        *ret_leftover = fd_take(&leftover_fd);
        *ret_timer = fd_take(&timer_fd);
        return 0;
}

/* A path stays good when the program changes its directory (if it can still be passed to connect() then). */
static void copy_path(char ret[CLIENT_ADDRESS_SIZE], const char *path) {
        char directory[CLIENT_ADDRESS_SIZE];
        size_t length = strlen(path);

        if (path[0] != '/' && getcwd(directory, sizeof directory) && strlen(directory) + 1 + length < sizeof directory) {
                char *end = stpcpy(stpcpy(ret, directory), "/");

                memcpy(end, path, length + 1);
        } else if (length < CLIENT_ADDRESS_SIZE)
                memcpy(ret, path, length + 1);
}

static void fill_in_resume(struct client_resume *resume, const struct client_parts *parts) {
        link_init(&resume->link);
        if (!parts->address || strncmp(parts->address, "fd:", 3) == 0 || parts->options.reconnect_us < 0)
                return;
        copy_path(resume->address, parts->address);
        if (parts->options.name)
                memcpy(resume->name, parts->options.name, strlen(parts->options.name));
        resume->epoch = parts->link->epoch;
        resume->origin = *parts->link;
        resume->limit_us = (uint64_t) parts->options.reconnect_us;
}

static uint32_t get_generation(void *userdata) {
        return client_generation(userdata);
}

static int recover(void *userdata, uint64_t until_us) {
        return client_resume(userdata, until_us);
}

static bool is_lost(void *userdata) {
        return client_is_lost(userdata);
}

static void note_lost(void *userdata, uint32_t generation) {
        client_note_lost(userdata, generation);
}

static void end(void *userdata) {
        client_set_dead(userdata);
}

static const struct call_ops call_ops = {
        .get_generation = get_generation,
        .is_lost = is_lost,
        .note_lost = note_lost,
        .end = end,
        .unasked = client_take_unasked,
        .recover = recover,
};

static void fill_in(pb_client *client, const struct client_parts *parts) {
        client->role = parts->options.role;
        client->flags = parts->options.flags;
        client->timeout_us = parts->options.timeout_us;
        client->slice_us = parts->options.slice_us;
        client->spin_us = parts->options.spin_us;
        client->mapped = parts->mapped;
        client->n_memories = parts->n_memories;
        client->n_regions = client->n_sorted = parts->n_regions;
        memcpy(client->memories, parts->memories, sizeof client->memories);
        memcpy(client->regions, parts->regions, sizeof client->regions);
        client->ring = parts->ring;
        client->state = parts->state;
        client->socket = parts->socket;
        client->doorbell = parts->doorbell;
        client->completion = parts->completion;
        client->uffd_device = parts->uffd_device;
        client->ring_fd = parts->ring_fd;
        client->generation = 2;
        client->completion_cursor = (uint64_t) client->generation << 32;
        fill_in_resume(&client->resume, parts);
        (void) pthread_mutex_init(&client->attach_lock, NULL);
        call_init(&client->channel, client->socket);
        client->channel.ops = &call_ops;
        client->channel.userdata = client;
}

static void fill_in_prefix(pb_client *client) {
        bool has_memory = client->role != PB_ROLE_OBSERVER;

        for (unsigned i = 0; has_memory && i < client->n_regions; i++) {
                const struct link_region *region = &client->regions[i];

                client->views[i] = (struct pb_view) {
                        .gpa = region->gpa,
                        .size = region->size,
                        .first_page = region->offset >> PB_PAGE_SHIFT,
                        .words = client->memories[region->memory].present,
                };
        }
        client->prefix = (struct pb_prefix) {
                .version = CLIENT_PREFIX_VERSION,
                .n_views = has_memory ? client->n_regions : 0,
                .views = client->views,
                .may_write = client->role == PB_ROLE_DEVICE || client->role == PB_ROLE_VMM,
        };
}

int client_new(pb_client **ret, const struct client_parts *parts) {
        _cleanup_close_ int poll_fd = -1, leftover_fd = -1, timer_fd = -1;
        pb_client *client;
        int r;

        if (parts->ring) {
                r = open_poll_fd(parts->completion, parts->socket, &poll_fd, &leftover_fd, &timer_fd);
                if (r < 0)
                        return r;
        }
        client = mmap(NULL, OBJECT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (client == MAP_FAILED)
                return -errno;
        if (madvise(client, WIPED_SIZE, MADV_WIPEONFORK) < 0) {
                r = -errno;
                (void) munmap(client, OBJECT_SIZE);
                return r;
        }
        fill_in(client, parts);
        fill_in_prefix(client);
        client->poll_fd = fd_take(&poll_fd);
        client->leftover_fd = fd_take(&leftover_fd);
        client->timer_fd = fd_take(&timer_fd);
        client_remember_files(client);
        client_note_complete(client);
        *ret = client;
        return 0;
}

static void unmap(const void *addr, uint64_t size) {
        if (addr)
                (void) munmap((void *) addr, size);
}

static void client_unmap(pb_client *client) {
        for (unsigned i = 0; i < client->n_memories; i++) {
                if (client->memories[i].held)
                        unmap(client->memories[i].addr, client->memories[i].size);
                unmap(client->memories[i].map, client->memories[i].map_size);
        }
        unmap(client->ring, sizeof *client->ring);
        unmap(client->state, sizeof *client->state);
}

pb_client *pb_disconnect(pb_client *client) {
        if (!client)
                return NULL;
        if (client_check(client) < 0) {
                /* A child. Everything shared is MADV_DONTFORK: not mapped here, and its addresses may be in use by
                 * something else. No shutdown(): the session is the parent's. */
                close_inherited(get_inherited(client));
                (void) munmap(client, OBJECT_SIZE);
                return NULL;
        }
        if (client->mapped)
                client_unmap(client);
        if (client->mapped)
                client_say_goodbye(client);
        if (client->socket >= 0)
                (void) shutdown(client->socket, SHUT_RDWR); /* seen by the broker whoever holds duplicates */
        (void) fd_close(client->socket);
        (void) fd_close(client->doorbell);
        (void) fd_close(client->completion);
        (void) fd_close(client->poll_fd);
        (void) fd_close(client->leftover_fd);
        (void) fd_close(client->timer_fd);
        (void) fd_close(client->ring_fd);
        link_done(&client->resume.link);
        (void) fd_close(client->uffd_device);
        for (unsigned i = 0; i < client->n_memories; i++) {
                (void) fd_close(client->memories[i].fd);
                free(client->memories[i].attached); /* the descriptors stay */
        }
        call_done(&client->channel);
        (void) pthread_mutex_destroy(&client->attach_lock);
        (void) munmap(client, OBJECT_SIZE);
        return NULL;
}

void client_note_complete(pb_client *client) {
        if (client->role == PB_ROLE_OBSERVER || __atomic_load_n(&client->prefix.complete, __ATOMIC_RELAXED))
                return;
        /* While there is a memory that may come, not everything is there. */
        for (unsigned i = 0; i < client->n_memories; i++)
                if (!client->memories[i].map || !order_complete_load(&client->memories[i].map->complete))
                        return;
        __atomic_store_n(&client->prefix.complete, 1, __ATOMIC_RELAXED);
}
