/* SPDX-License-Identifier: MIT */
/* The journal's own protocol (systemd's JOURNAL_NATIVE_PROTOCOL), without sd_journal_sendv(): that one waits when the
 * journal does not read, and whoever logs may have a fault to serve. */
#pragma once

#define LOG_JOURNAL_SOCKET "/run/systemd/journal/socket"

struct log_event;

/* A socket to send from, or a negative errno. Before a system-call filter is loaded. */
int log_journal_open(void);

/* Sends one entry to the journal that listens at `path`. Never waits: -EAGAIN if it does not read. */
int log_journal_send(int fd, const char *path, int level, const char *program, const char *name,
                     const struct log_event *event, const char *text);
