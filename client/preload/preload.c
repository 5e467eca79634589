/* SPDX-License-Identifier: MIT */
/*
 * LD_PRELOAD library of pagebroker-run: makes every shared mapping of guest memory lazy, in a program that knows
 * nothing of it. The broker serves the faults; this library creates the userfaultfd, hands it over early, and has each
 * mapping registered before mmap() returns.
 */
#include "client/preload/preload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/pagebroker.h"
#include "client/preload/attachment.h"
#include "client/preload/next.h"
#include "common/clock.h"

#define EXIT_FORK_FAILED 125

struct known_memory {
        int number; /* of the descriptor */
        uint64_t device;
        uint64_t inode;
};

static struct {
        pthread_once_t once;
        bool active;
        pthread_mutex_t lock;
        struct attachment attachment;
        int error; /* why there is no attachment: 0 (not tried yet) or a negative errno */
        struct attachment_options options;
        char *passed_on; /* the variable's value, while it still goes through exec() */
        unsigned n_memories;
        struct known_memory memories[PB_MEMORIES_MAX];
        struct mapping_table mappings;
} state = { .once = PTHREAD_ONCE_INIT, .lock = PTHREAD_MUTEX_INITIALIZER, .attachment = { .socket = -1, .uffd = -1 } };

void preload_say(const char *format, ...) {
        char line[512];
        int saved = errno, n;
        va_list ap;

        n = snprintf(line, sizeof line, "%s[%d]: pagebroker: ", program_invocation_short_name, (int) getpid());
        va_start(ap, format);
        n += vsnprintf(line + n, sizeof line - (size_t) n, format, ap);
        va_end(ap);
        if ((size_t) n > sizeof line - 1)
                n = sizeof line - 1;
        line[n++] = '\n';
        if (write(STDERR_FILENO, line, (size_t) n) < 0)
                errno = saved; /* nobody is there to be told */
        errno = saved;
}

static uint32_t parse_role(const char *text) {
        return text && strcmp(text, "device") == 0 ? PB_ROLE_DEVICE : PB_ROLE_VMM;
}

static uint64_t parse_reconnect(const char *text) {
        unsigned long seconds = PRELOAD_RECONNECT_DEFAULT_S;
        char *end;

        if (text && *text >= '0' && *text <= '9') {
                seconds = strtoul(text, &end, 10);
                if (*end || seconds > PRELOAD_RECONNECT_MAX_S)
                        seconds = PRELOAD_RECONNECT_DEFAULT_S;
        }
        return seconds * USEC_PER_SEC;
}

/* Stops at the first thing that is no number: whoever changed the variable has less guest memory then. */
static void parse_numbers(const char *text) {
        while (text && *text >= '0' && *text <= '9' && state.n_memories < PB_MEMORIES_MAX) {
                char *end;
                long number = strtol(text, &end, 10);

                if (number > INT32_MAX || (*end && *end != ','))
                        return;
                state.memories[state.n_memories++].number = (int) number;
                text = *end ? end + 1 : end;
        }
}

static int fail(int error, const char *format, ...) PRINTF_LIKE(2, 3);

static int fail(int error, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(state.attachment.reason, sizeof state.attachment.reason, format, ap);
        va_end(ap);
        state.error = error;
        return error;
}

static int open_attachment(int (*open)(struct attachment *, const struct attachment_options *)) {
        state.error = open(&state.attachment, &state.options);
        if (state.error >= 0 && state.attachment.n_memories < state.n_memories)
                return fail(-ESTALE, "the broker at %s has fewer memories than before", state.options.address);
        return state.error;
}

/* The first time: puts the memfds where pagebroker-run said that they are. */
static void place_memories(void) {
        for (unsigned i = 0; state.error >= 0 && i < state.n_memories; i++) {
                struct known_memory *known = &state.memories[i];
                const struct attached_memory *memory = &state.attachment.memories[i];

                known->device = memory->device;
                known->inode = memory->inode;
                if (fcntl(known->number, F_GETFD) >= 0)
                        (void) fail(-EBUSY, "descriptor %d is taken by something else", known->number);
                else if (dup3(memory->fd, known->number, O_CLOEXEC) < 0)
                        (void) fail(-errno, "descriptor %d for guest memory: %s", known->number,
                                    strerrordesc_np(errno));
        }
        attachment_drop_memories(&state.attachment);
}

/* In a fork's child: it must be the same broker still. */
static int attach_again(void) {
        int r = open_attachment(attachment_open_again);

        for (unsigned i = 0; r >= 0 && i < state.n_memories; i++)
                if (state.attachment.memories[i].inode != state.memories[i].inode ||
                    state.attachment.memories[i].device != state.memories[i].device)
                        r = fail(-ESTALE, "another broker listens at %s now", state.options.address);
        attachment_drop_memories(&state.attachment);
        return r;
}

static void before_fork(void) {
        preload_lock();
}

static void after_fork_in_parent(void) {
        preload_unlock();
}

/* The child has an address space of its own: the parent's userfaultfd does not cover it. */
static void after_fork_in_child(void) {
        struct mapping_table inherited = state.mappings;

        state.mappings.n = 0;
        attachment_forget(&state.attachment);
        state.error = 0;
        for (unsigned i = 0; i < inherited.n; i++) {
                const struct mapping *m = &inherited.mappings[i];

                if (m->skipped_at_fork)
                        continue;
                if (preload_register(m->memory, m->start, m->end - m->start, m->offset) < 0) {
                        preload_say(
                                "a forked child ends here, because guest memory that it inherited would show zeros");
                        _exit(EXIT_FORK_FAILED);
                }
                mapping_add(&state.mappings, m);
        }
        preload_unlock();
}

static void initialize(void) {
        char *numbers = getenv(PRELOAD_ENV_MEMORY);

        state.options = (struct attachment_options) {
                .address = getenv(PRELOAD_ENV_SOCKET),
                .role = parse_role(getenv(PRELOAD_ENV_ROLE)),
                .reconnect_us = parse_reconnect(getenv(PRELOAD_ENV_RECONNECT)),
        };
        if (state.options.address)
                parse_numbers(numbers);
        if (state.n_memories == 0)
                return;
        state.passed_on = numbers;
        /* A failure is reported when guest memory is opened: this may be a wrapper (sh, setpriv, taskset) that never
         * does, on its way to exec() the program, perhaps as another user. */
        (void) open_attachment(attachment_open);
        place_memories();
        if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
                (void) fail(-ENOMEM, "no memory for pthread_atfork()");
        __atomic_store_n(&state.active, true, __ATOMIC_RELEASE);
}

__attribute__((constructor)) static void preload_constructor(void) {
        next_resolve();
        (void) pthread_once(&state.once, initialize);
}

bool preload_is_active(void) {
        if (__atomic_load_n(&state.active, __ATOMIC_ACQUIRE))
                return true;
        /* Also when a constructor of another library comes before ours. */
        (void) pthread_once(&state.once, initialize);
        return __atomic_load_n(&state.active, __ATOMIC_ACQUIRE);
}

int preload_find_memory(int fd) {
        struct stat st;
        int saved = errno;

        if (fstat(fd, &st) < 0) {
                errno = saved;
                return -ENOENT;
        }
        /* Inode 0: not known, because there has been no attachment. */
        for (unsigned i = 0; i < state.n_memories; i++)
                if (st.st_ino == state.memories[i].inode && st.st_dev == state.memories[i].device && st.st_ino != 0)
                        return (int) i;
        return -ENOENT;
}

bool preload_is_number_of_memory(int fd) {
        for (unsigned i = 0; i < state.n_memories; i++)
                if (state.memories[i].number == fd)
                        return true;
        return false;
}

void preload_lock(void) {
        (void) pthread_mutex_lock(&state.lock);
}

void preload_unlock(void) {
        (void) pthread_mutex_unlock(&state.lock);
}

struct mapping_table *preload_mappings(void) {
        return &state.mappings;
}

/* The program maps guest memory, so it is no wrapper: what it starts from now on is a helper, which shall get nothing.
 * Emptied in place: unsetenv() would move the variables under other threads' feet. The program may have used the space
 * for something else (a process title), so look first. */
static void stop_passing_on(void) {
        static const char name[] = PRELOAD_ENV_MEMORY "=";
        char *value = state.passed_on;

        state.passed_on = NULL;
        if (value && memcmp(value - strlen(name), name, strlen(name)) == 0)
                *value = 0;
}

int preload_check(void) {
        if (state.error < 0)
                preload_say("there is no guest memory here: %s", state.attachment.reason);
        return state.error;
}

/* In the child of a fork that had nothing to register, this comes late: only now is there anything to attach for. */
static int ensure_attachment(void) {
        if (state.attachment.socket < 0 && state.error == 0)
                (void) attach_again();
        return preload_check();
}

int preload_extent(unsigned memory, uint64_t offset, uint64_t length, uint64_t *ret_length) {
        const struct attached_memory *m = &state.attachment.memories[memory];
        int r = ensure_attachment();

        if (r < 0)
                return r;
        if (offset >= m->size || !is_aligned(offset, m->backing_size)) {
                preload_say(
                        "offset %llu of a mapping of guest memory %u is past its end or inside a page of %llu bytes",
                        (unsigned long long) offset, memory, (unsigned long long) m->backing_size);
                return -EINVAL;
        }
        *ret_length = min_u64(align_up(min_u64(length, m->size), m->backing_size), m->size - offset);
        return 0;
}

int preload_register(unsigned memory, uintptr_t address, uint64_t length, uint64_t offset) {
        int r = ensure_attachment();

        if (r < 0)
                return r;
        r = attachment_map(&state.attachment, memory, address, length, offset);
        if (r < 0) {
                preload_say("the broker could not register %llu bytes of guest memory: %s", (unsigned long long) length,
                            state.attachment.reason);
                return r;
        }
        stop_passing_on();
        return 0;
}

void preload_forget(uintptr_t address, uint64_t length) {
        int saved = errno;

        mapping_remove(&state.mappings, address, address + length);
        attachment_unmap(&state.attachment, address, length);
        errno = saved;
}

bool preload_is_guest(const void *address, size_t length) {
        uintptr_t start = (uintptr_t) address, end;
        bool is_guest;

        /* Nothing is mapped before we are initialized. */
        if (!__atomic_load_n(&state.active, __ATOMIC_ACQUIRE))
                return false;
        if (__builtin_add_overflow(start, length, &end))
                end = UINTPTR_MAX;
        preload_lock();
        is_guest = mapping_overlaps(&state.mappings, start, end);
        preload_unlock();
        return is_guest;
}
