/* SPDX-License-Identifier: MIT */
/* What the supervisor is told (sd_notify(3)). On the control thread only. */
#pragma once

#include "common/macro.h"

/* Connected to $NOTIFY_SOCKET, before the filter is loaded: sd_notify() makes its socket when called, and READY=1 must not
 * be said before the broker is sealed. -1: nobody wants to know. */
int notify_open(void);

/* "READY=1", "STATUS=..."; lines. Best effort; a no-op without a socket. */
void notify_send(int fd, const char *state);
void notify_printf(int fd, const char *format, ...) PRINTF_LIKE(2, 3);
