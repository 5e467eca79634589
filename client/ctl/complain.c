/* SPDX-License-Identifier: MIT */
#include "client/ctl/complain.h"

#include <stdarg.h>
#include <stdio.h>

int complain(int status, const char *format, ...) {
        va_list ap;

        (void) fflush(stdout);
        (void) fputs("pagebrokerctl: ", stderr);
        va_start(ap, format);
        (void) vfprintf(stderr, format, ap);
        va_end(ap);
        (void) fputc('\n', stderr);
        return status;
}
