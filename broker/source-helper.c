/* SPDX-License-Identifier: MIT */
#include "broker/source-helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/macro.h"
#include "common/packet.h"
#include "protocol/helper.h"
#include "protocol/order.h"
#include "protocol/presence.h"

/* #syscalls:broker sendmsg poll */

/* As in the kernel: below that it is no errno. */
#define ERRNO_MAX 4095

/* It gives up by itself long before that. */
#define OPEN_TIMEOUT_MS 120000

struct source_helper {
        struct source source;
        int socket, wake, memory_fd;
        atomic_bool gone; /* nothing comes from there any more */
        struct pb_helper_memory *memory;
        uint64_t memory_size; /* bytes */
        uint8_t *buffers;
        const uint32_t *zero_map; /* bit n: page n is known to be zeros */
        struct source_read *reads[PB_HELPER_SLOTS]; /* not released */
        uint64_t answered[PB_HELPER_WORDS];         /* taken from `done`, not reaped */
        uint32_t state;                             /* as last seen */
};

static struct source_helper *helper_of(struct source *source) {
        return CONTAINER_OF(source, struct source_helper, source);
}

/* ---- what is known without reading ---- */

/* Up to the first page from `page` on that is not as the first one. */
static uint64_t run_length(const uint32_t *map, uint64_t page, uint64_t end, bool zero) {
        uint64_t first = page;

        while (page < end) {
                uint32_t word = order_helper_load(&map[page / 32]);
                uint32_t other = (zero ? ~word : word) >> (page % 32);

                if (other)
                        return min_u64(page + (unsigned) __builtin_ctz(other), end) - first;
                page = align_down(page, 32) + 32;
        }
        return end - first;
}

static int helper_extent(struct source *source, uint64_t offset, uint64_t length, bool *ret_data, uint64_t *ret_length) {
        const uint32_t *map = helper_of(source)->zero_map;
        uint64_t page = offset / PB_PAGE_BYTES, end = align_up(offset + length, PB_PAGE_BYTES) / PB_PAGE_BYTES;
        bool zero = order_helper_load(&map[page / 32]) >> (page % 32) & 1;

        *ret_data = !zero;
        *ret_length = min_u64(length, (page + run_length(map, page, end, zero)) * PB_PAGE_BYTES - offset);
        return 0;
}

static bool helper_extents_known(struct source *source) {
        return atomic_load(&helper_of(source)->gone) || order_helper_load(&helper_of(source)->memory->map_known);
}

static ssize_t helper_read_now(struct source *source, void *buffer, uint64_t offset, size_t length) {
        return -EAGAIN;
}

static int helper_check(struct source *source) {
        return order_helper_load(&helper_of(source)->memory->state) == PB_HELPER_CHANGED ? -ESTALE : 0;
}

static uint64_t helper_cold_mask(struct source *source, uint64_t offset, unsigned n_pages) {
        return 0;
}

static void helper_drop_behind(struct source *source, uint64_t offset, uint64_t length) {
}

/* ---- reads ---- */

/* Its supervisor, too: nobody will answer. What was under way has failed. */
static void helper_lost(struct source_helper *helper) {
        if (helper->gone)
                return;
        helper->gone = true;
        log_error("source %s: its helper process is gone", helper->source.name);
        for (unsigned slot = 0; slot < PB_HELPER_SLOTS; slot++)
                if (helper->reads[slot] && order_helper_owned(&helper->memory->owned[slot / 64]) >> (slot % 64) & 1) {
                        helper->memory->slots[slot].result = -ESHUTDOWN;
                        helper->answered[slot / 64] |= 1ull << (slot % 64);
                }
}

/* A full socket: there are words in it that it has not read, so it will look. */
static void helper_look(struct source_helper *helper) {
        int r = packet_send(helper->socket, &(uint8_t) { PB_HELPER_LOOK }, 1, NULL, 0, MSG_DONTWAIT);

        if (r < 0 && r != -EAGAIN)
                helper_lost(helper);
}

static int helper_get_fd(struct source *source) {
        return helper_of(source)->wake;
}

static int helper_start(struct source *source, struct source_read *read) {
        struct source_helper *helper = helper_of(source);
        unsigned slot = 0;

        if (helper->gone)
                return -ESHUTDOWN;
        while (slot < 2 * source->depth && helper->reads[slot])
                slot++;
        if (slot == 2 * source->depth)
                return -EAGAIN;
        helper->reads[slot] = read;
        read->slot = slot;
        read->buffer = helper->buffers + (size_t) slot * PB_HELPER_READ_MAX;
        helper->memory->slots[slot] = (struct pb_helper_slot) { .offset = read->offset, .length = read->length };
        order_helper_own(&helper->memory->owned[slot / 64], 1ull << (slot % 64), true);
        order_helper_post(&helper->memory->submitted[slot / 64], 1ull << (slot % 64));
        helper_look(helper);
        return 0;
}

static void helper_forget(struct source *source, struct source_read *read) {
        struct source_helper *helper = helper_of(source);

        order_helper_post(&helper->memory->forgotten[read->slot / 64], 1ull << (read->slot % 64));
        helper_look(helper);
}

static bool helper_has_answers(struct source *source) {
        struct source_helper *helper = helper_of(source);

        if (order_helper_load(&helper->memory->state) != helper->state)
                return true;
        for (unsigned i = 0; i < PB_HELPER_WORDS; i++)
                if (helper->answered[i] || order_helper_is_pending(&helper->memory->done[i]))
                        return true;
        return false;
}

/* Back after it was away: what was given up meanwhile is worth another try. */
static void notice_state(struct source_helper *helper) {
        uint32_t state = order_helper_load(&helper->memory->state), before = helper->state;

        helper->state = state;
        if (state == PB_HELPER_CONNECTED && before != PB_HELPER_CONNECTED)
                source_returned(&helper->source);
}

/* What has been answered and was asked. */
static uint64_t take_answers(struct pb_helper_memory *memory, unsigned word) {
        uint64_t done = order_helper_peek(&memory->done[word]), asked;

        if (!done)
                return 0;
        asked = done & order_helper_owned(&memory->owned[word]);
        /* A worker that starts just now inherits what is owned and not done: owned goes first, or it would take an answered
         * slot, and bring its bytes into the slot's next read. */
        order_helper_own(&memory->owned[word], done, false);
        order_helper_clear(&memory->done[word], done);
        return asked;
}

static struct source_read *helper_reap(struct source *source) {
        struct source_helper *helper = helper_of(source);

        notice_state(helper);
        for (unsigned i = 0; i < PB_HELPER_WORDS; i++) {
                struct source_read *read;
                unsigned slot;

                helper->answered[i] |= take_answers(helper->memory, i);
                if (!helper->answered[i])
                        continue;
                slot = i * 64 + (unsigned) __builtin_ctzll(helper->answered[i]);
                helper->answered[i] &= helper->answered[i] - 1;
                read = helper->reads[slot];
                if (!read)
                        continue; /* an answer to what was not asked */
                read->result = (int) order_helper_load((const uint32_t *) &helper->memory->slots[slot].result);
                if (read->result > (int) read->length || read->result < -ERRNO_MAX)
                        read->result = -EPROTO;
                return read;
        }
        return NULL;
}

static void helper_release(struct source *source, struct source_read *read) {
        struct source_helper *helper = helper_of(source);

        helper->reads[read->slot] = NULL;
        read->buffer = NULL;
}

static void helper_installed(struct source *source, uint64_t offset, uint64_t length) {
        const struct pb_helper_packet packet = { .word = PB_HELPER_INSTALLED, .offset = offset, .length = length };

        /* Lost with a full socket: then the other side gives back what it could have only when all is here. */
        (void) packet_send(helper_of(source)->socket, &packet, sizeof packet, NULL, 0, MSG_DONTWAIT);
}

/* ---- the end ---- */

static int helper_get_end_fd(struct source *source) {
        return helper_of(source)->socket;
}

/* Without reading: it has nothing to say, and who never stops talking would keep us here. */
static bool has_ended(const struct source_helper *helper) {
        struct pollfd p = { .fd = helper->socket, .events = POLLRDHUP };

        return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLRDHUP | POLLERR);
}

static void helper_notice_end(struct source *source) {
        struct source_helper *helper = helper_of(source);

        if (!helper->gone && has_ended(helper))
                helper_lost(helper);
}

static void helper_finish(struct source *source, uint64_t offset, uint64_t length) {
        struct source_helper *helper = helper_of(source);

        if (offset < source->size) {
                helper->memory->finish_offset = offset;
                helper->memory->finish_length = min_u64(length, source->size - offset);
        }
        order_helper_store(&helper->memory->finish, 1);
        if (!helper->gone)
                helper_look(helper);
}

static int helper_end(struct source *source) {
        struct source_helper *helper = helper_of(source);
        bool done;

        if (!has_ended(helper))
                return -EAGAIN;
        done = order_helper_load(&helper->memory->finished);
        helper->gone = true;
        helper->state = PB_HELPER_CONNECTED; /* as zeros have it */
        /* Its pages are given back with the last mapping. Zeros take their place: what looks there finds nothing. */
        if (mmap(helper->memory, helper->memory_size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
                log_warning("source %s: its memory cannot be given back: %s", source->name, strerror(errno));
        helper->socket = fd_close(helper->socket);
        helper->wake = fd_close(helper->wake);
        helper->memory_fd = fd_close(helper->memory_fd);
        return done ? 0 : -EPIPE;
}

/* ---- start ---- */

static void helper_free(struct source *source) {
        struct source_helper *helper = helper_of(source);

        if (helper->memory)
                (void) munmap(helper->memory, helper->memory_size);
        (void) fd_close(helper->socket);
        (void) fd_close(helper->wake);
        (void) fd_close(helper->memory_fd);
        free(helper->source.name);
        free(helper);
}

static int spawn(const char *path, char *const argv[], const int fds[3]) {
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t none, child;
        pid_t pid;
        int r;

        (void) sigemptyset(&none);
        (void) sigemptyset(&child);
        (void) sigaddset(&child, SIGCHLD); /* ignored by us, which it would inherit: it waits for its worker */
        (void) posix_spawnattr_init(&attributes);
        (void) posix_spawnattr_setsigmask(&attributes, &none);
        (void) posix_spawnattr_setsigdefault(&attributes, &child);
        (void) posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        (void) posix_spawn_file_actions_init(&actions);
        /* First out of the way of one another: `fds` are above the numbers they are to get. */
        r = -posix_spawn_file_actions_adddup2(&actions, fds[0], PB_HELPER_SOCKET_FD);
        if (r == 0)
                r = -posix_spawn_file_actions_adddup2(&actions, fds[1], PB_HELPER_MEMORY_FD);
        if (r == 0)
                r = -posix_spawn_file_actions_adddup2(&actions, fds[2], PB_HELPER_WAKE_FD);
        /* Listening sockets above all: they must not outlive the broker in it. */
        if (r == 0)
                r = -posix_spawn_file_actions_addclosefrom_np(&actions, PB_HELPER_WAKE_FD + 1);
        if (r == 0)
                r = -posix_spawn(&pid, path, &actions, &attributes, argv, environ);
        (void) posix_spawn_file_actions_destroy(&actions);
        (void) posix_spawnattr_destroy(&attributes);
        return r;
}

static int high_duplicate(int fd) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 64);

        return copy < 0 ? -errno : copy;
}

static int helper_spawn(const struct source_helper *helper, int socket, const char *kind, const char *what,
                        const struct source_context *context, char **ret_error) {
        _cleanup_close_ int a = high_duplicate(socket), b = high_duplicate(helper->memory_fd), c = high_duplicate(helper->wake);
        char path[512], vm[64], user[128], level[32];
        char *argv[] = {
                path, vm, level, (char *) (context->seccomp ? "--seccomp=on" : "--seccomp=off"), (char *) what, user, NULL,
        };
        int r;

        if (a < 0 || b < 0 || c < 0)
                return -EMFILE;
        (void) snprintf(path, sizeof path, "%s/pagebroker-%s", secure_getenv("PAGEBROKER_LIBEXEC") ?: PAGEBROKER_LIBEXEC, kind);
        (void) snprintf(vm, sizeof vm, "--name=%s", context->vm ?: "vm");
        (void) snprintf(level, sizeof level, "--log-level=%d", log_get_level());
        (void) snprintf(user, sizeof user, "--user=%s", context->user ?: "");
        r = spawn(path, argv, (const int[]) { a, b, c });
        if (r < 0 && asprintf(ret_error, "cannot start %s: %s", path, strerror(-r)) < 0)
                *ret_error = NULL;
        return r;
}

/* Once: the helper is open, or says why not. */
static int helper_wait(const struct source_helper *helper, struct pb_helper_opened *opened, char **ret_error) {
        struct pollfd p = { .fd = helper->socket, .events = POLLIN };
        struct packet_info info = PACKET_INFO_INIT;
        ssize_t n;
        int r;

        do
                r = poll(&p, 1, OPEN_TIMEOUT_MS);
        while (r < 0 && errno == EINTR);
        n = r > 0 ? packet_receive(helper->socket, opened, sizeof *opened, &info, MSG_DONTWAIT) : -ETIMEDOUT;
        packet_info_done(&info);
        if (n != sizeof *opened || opened->magic != PB_HELPER_MAGIC ||
            memchr(opened->text, 0, sizeof opened->text) == NULL || opened->error > 0) {
                *ret_error = strdup(n == -ETIMEDOUT ? "its helper does not answer" : "its helper ended, or is not of this version");
                return n == -ETIMEDOUT ? -ETIMEDOUT : -EPROTO;
        }
        if (opened->error < 0)
                *ret_error = strdup(opened->text);
        return opened->error;
}

static int check_opened(const struct pb_helper_opened *opened, char **ret_error) {
        const char *text = opened->size == 0 ? "is empty"
                           : !is_aligned(opened->size, PB_PAGE_BYTES)
                                   ? "its size is not a multiple of 4096 bytes; nbdkit's --filter=truncate round-up=4096 helps"
                           : opened->size > PB_MEMORY_SIZE_MAX ? "is too large"
                                                               : NULL;

        if (opened->depth == 0 || opened->depth > PB_HELPER_DEPTH_MAX)
                return -EPROTO;
        if (!text)
                return 0;
        *ret_error = strdup(text);
        return -EINVAL;
}

static int helper_map(struct source_helper *helper, const struct pb_helper_opened *opened) {
        uint64_t buffers = align_up(sizeof *helper->memory, PB_PAGE_BYTES);
        uint64_t map = buffers + 2ull * opened->depth * PB_HELPER_READ_MAX;

        helper->memory_size = map + presence_bitmap_size(opened->size / PB_PAGE_BYTES);
        if (ftruncate(helper->memory_fd, (off_t) helper->memory_size) < 0)
                return -errno;
        helper->memory = mmap(NULL, helper->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, helper->memory_fd, 0);
        if (helper->memory == MAP_FAILED) {
                helper->memory = NULL;
                return -errno;
        }
        helper->buffers = (uint8_t *) helper->memory + buffers;
        helper->zero_map = (const uint32_t *) (const void *) ((uint8_t *) helper->memory + map);
        helper->memory->magic = PB_HELPER_MAGIC;
        helper->memory->depth = opened->depth;
        helper->memory->size = opened->size;
        helper->memory->buffers_offset = buffers;
        helper->memory->zero_map_offset = map;
        helper->memory->memory_size = helper->memory_size;
        memcpy(helper->memory->identity, opened->text, sizeof opened->text);
        order_helper_store(&helper->memory->ready, 1);
        /* It could make the broker die of SIGBUS. */
        return memfd_seal(helper->memory_fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

static int helper_open(struct source_helper *helper, const char *kind, const char *what,
                       const struct source_context *context, char **ret_error) {
        struct pb_helper_opened opened = {};
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        helper->socket = pair[0];
        helper->memory_fd = memfd_new("pagebroker:helper", 0, PB_PAGE_BYTES);
        helper->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = helper->memory_fd < 0 ? helper->memory_fd
            : helper->wake < 0    ? -errno
                                  : helper_spawn(helper, pair[1], kind, what, context, ret_error);
        (void) fd_close(pair[1]);
        if (r == 0)
                r = helper_wait(helper, &opened, ret_error);
        if (r == 0)
                r = check_opened(&opened, ret_error);
        if (r == 0)
                r = helper_map(helper, &opened);
        if (r < 0)
                return r;
        helper->source.size = opened.size;
        helper->source.depth = opened.depth;
        source_identify(&helper->source, opened.text, strnlen(opened.text, sizeof opened.text));
        helper->source.wants_installed = opened.flags & PB_HELPER_WANTS_INSTALLED;
        helper_look(helper);
        return 0;
}

int source_open_helper(struct source **ret, const char *name, const char *kind, const char *what,
                       const struct source_context *context, char **ret_error) {
        static const struct source_reads reads = {
                .get_fd = helper_get_fd,
                .start = helper_start,
                .forget = helper_forget,
                .has_answers = helper_has_answers,
                .reap = helper_reap,
                .release = helper_release,
                .finish = helper_finish,
                .get_end_fd = helper_get_end_fd,
                .notice_end = helper_notice_end,
                .end = helper_end,
        };
        static const struct source_ops ops = {
                .scheme = "helper",
                .extent = helper_extent,
                .extents_known = helper_extents_known,
                .read_now = helper_read_now,
                .check = helper_check,
                .cold_mask = helper_cold_mask,
                .drop_behind = helper_drop_behind,
                .installed = helper_installed,
                .reads = &reads,
                .free = helper_free,
        };
        struct source_helper *helper = calloc(1, sizeof *helper);
        _cleanup_free_ char *error = NULL;
        int r;

        if (!helper)
                return -ENOMEM;
        helper->source = (struct source) { .ops = &ops, .name = strdup(name), .fd = -1 };
        helper->socket = helper->wake = helper->memory_fd = -1;
        r = helper->source.name ? helper_open(helper, kind, what, context, &error) : -ENOMEM;
        if (r < 0) {
                if (ret_error && asprintf(ret_error, "source '%s': %s", name, error ?: strerror(-r)) < 0)
                        *ret_error = NULL;
                helper_free(&helper->source);
                return r;
        }
        *ret = &helper->source;
        return 0;
}
