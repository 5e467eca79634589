/* SPDX-License-Identifier: MIT */
/* What goes wrong, in words on standard error, and how the program ends. */
#pragma once

#include "common/macro.h"

/* Documented in pagebrokerctl(1): scripts tell them apart. */
enum {
        STATUS_OK = 0,
        STATUS_FAILURE = 1,
        STATUS_USAGE = 2,
        STATUS_NO_BROKER = 3,
        STATUS_NOT_ALLOWED = 4,
        STATUS_FINDINGS = 5, /* audit: the broker's books do not balance */
};

/* Prints "pagebrokerctl: ..." and returns `status`. */
int complain(int status, const char *format, ...) PRINTF_LIKE(2, 3);
