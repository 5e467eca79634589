/* SPDX-License-Identifier: MIT */
#include "common/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log-journal.h"

/* #syscalls:broker write sendto poll */

static const char *log_program = "pagebroker";
static const char *log_name;
static int log_max_level = LOG_INFO;
static bool log_prefixed;
static int log_journal = -1;
static const char *log_journal_path = LOG_JOURNAL_SOCKET;
static uint32_t log_lost;

/* $JOURNAL_STREAM is "device:inode" of standard error when the journal reads it (systemd.exec(5)). */
static bool stderr_is_journal(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        unsigned long long device, inode;
        struct stat st;

        if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2)
                return false;
        return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_open(const char *program, const char *name) {
        log_program = program;
        log_name = name;
        log_prefixed = stderr_is_journal();
        if (log_prefixed && log_journal < 0)
                log_journal = log_journal_open();
}

void log_open_journal(const char *path) {
        log_journal_path = path;
        if (log_journal < 0)
                log_journal = log_journal_open();
}

void log_close(void) {
        log_journal = fd_close(log_journal);
}

void log_set_level(int max_level) {
        __atomic_store_n(&log_max_level, max_level, __ATOMIC_RELAXED);
}

int log_get_level(void) {
        return __atomic_load_n(&log_max_level, __ATOMIC_RELAXED);
}

/* -EAGAIN if it would have to wait. One write, so that lines of several threads do not mix. */
static int write_plain(const char *line, size_t length) {
        static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
        struct pollfd stream = { .fd = STDERR_FILENO, .events = POLLOUT };
        int r = 0;

        if (send(STDERR_FILENO, line, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
                return 0;
        if (errno != ENOTSOCK)
                return -errno;
        /* O_NONBLOCK would be everybody's who has this file open. No other thread of ours takes the room that was seen. */
        (void) pthread_mutex_lock(&lock);
        if (poll(&stream, 1, 0) <= 0)
                r = -EAGAIN;
        else if (write(STDERR_FILENO, line, length) < 0)
                r = -errno;
        (void) pthread_mutex_unlock(&lock);
        return r;
}

static int emit(int level, const struct log_event *event, const char *text) {
        char line[1024];
        int n;

        if (log_journal >= 0) {
                int r = log_journal_send(log_journal, log_journal_path, level, log_program, log_name, event, text);

                if (r >= 0 || r == -EAGAIN)
                        return r;
                /* It is gone; what reads standard error may still be there. */
        }
        n = snprintf(line, sizeof line, "%.*s%s%s%s%s: %s\n", log_prefixed ? 3 : 0,
                     (char[]) { '<', (char) ('0' + (level & 7)), '>', 0 }, log_program, log_name ? "[" : "",
                     log_name ? log_name : "", log_name ? "]" : "", text);
        if (n > (int) sizeof line - 1)
                n = (int) sizeof line - 1;
        return write_plain(line, (size_t) n);
}

/* Lines that were left out since the last one that was not. */
static void emit_lost(void) {
        uint32_t lost = __atomic_exchange_n(&log_lost, 0, __ATOMIC_RELAXED);
        char text[80];

        if (lost == 0)
                return;
        (void) snprintf(text, sizeof text, "%u lines were left out: the log did not take them", lost);
        if (emit(LOG_WARNING, NULL, text) < 0)
                (void) __atomic_add_fetch(&log_lost, lost, __ATOMIC_RELAXED);
}

void log_write(int level, const struct log_event *event, const char *format, ...) {
        int saved = errno;
        char text[800];
        va_list args;

        if (level > log_get_level())
                return;
        va_start(args, format);
        (void) vsnprintf(text, sizeof text, format, args);
        va_end(args);
        /* One line a call, whatever a peer put into a name. */
        for (char *p = text; *p; p++)
                if ((unsigned char) *p < ' ' || *p == 0x7f)
                        *p = '?';
        emit_lost();
        if (emit(level, event, text) < 0)
                (void) __atomic_add_fetch(&log_lost, 1, __ATOMIC_RELAXED);
        errno = saved;
}

bool log_limit_pass(struct log_limit *limit, uint32_t *ret_suppressed) {
        static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
        uint64_t now = clock_now_us();
        bool pass;

        (void) pthread_mutex_lock(&lock);
        if (now - limit->start_us >= limit->interval_us) {
                limit->start_us = now;
                limit->used = 0;
        }
        pass = limit->used < limit->burst;
        *ret_suppressed = 0;
        if (pass) {
                limit->used++;
                *ret_suppressed = limit->suppressed;
                limit->suppressed = 0;
        } else
                limit->suppressed++;
        (void) pthread_mutex_unlock(&lock);
        return pass;
}
