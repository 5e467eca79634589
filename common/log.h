/* SPDX-License-Identifier: MIT */
/*
 * Log lines for admins. If standard error is the journal ($JOURNAL_STREAM): entries with fields (PAGEBROKER_VM and those of
 * struct log_event). Else, or if the journal cannot be reached: "pagebrokerd[web1]: text" on standard error, with a <N>
 * priority prefix where that is the journal after all. A line that would have to wait is left out, and counted in the next
 * one: nobody who has a page to serve ever waits for whoever reads the log. Libraries log nothing above debug.
 */
#pragma once

#include <stdint.h>
#include <syslog.h>

#include "common/macro.h"

/* `name` may be NULL (no instance). Not copied. */
void log_open(const char *program, const char *name);
/* Log to the journal that listens at `path` (not copied), whatever standard error is. */
void log_open_journal(const char *path);
void log_close(void);
void log_set_level(int max_level);
int log_get_level(void);

/* What a line is about, for the journal's fields; each may be NULL. */
struct log_event {
        const char *id; /* MESSAGE_ID: 32 hexadecimal digits, of a catalog */
        const char *client;
        const char *memory;
};

void log_write(int level, const struct log_event *event, const char *format, ...) PRINTF_LIKE(3, 4);

/* log_event(LOG_INFO, (.id = EVENT_READY, .client = name), "format", ...) */
#define log_event(level, fields, ...) log_write((level), &(const struct log_event) LOG_EVENT_BRACES fields, __VA_ARGS__)
#define LOG_EVENT_BRACES(...) { __VA_ARGS__ }

#define log_error(...) log_write(LOG_ERR, NULL, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, NULL, __VA_ARGS__)
#define log_notice(...) log_write(LOG_NOTICE, NULL, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, NULL, __VA_ARGS__)
#define log_debug(...)                                        \
        do {                                                  \
                if (log_get_level() >= LOG_DEBUG)             \
                        log_write(LOG_DEBUG, NULL, __VA_ARGS__); \
        } while (0)

/* Lets `burst` lines a `interval_us` through; what a hostile peer can trigger goes through one of these. Thread-safe. */
struct log_limit {
        uint64_t interval_us;
        uint32_t burst;
        uint32_t used;
        uint64_t start_us;
        uint32_t suppressed;
};

#define LOG_LIMIT_DEFAULT ((struct log_limit) { .interval_us = 1000000, .burst = 20 })

/* True if a line may be written now; `*ret_suppressed` is how many were not since the last one. */
bool log_limit_pass(struct log_limit *limit, uint32_t *ret_suppressed);
