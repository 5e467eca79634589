/* SPDX-License-Identifier: MIT */
#include "complain.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "client/pagebroker.h"

int complain(int error, const char *format, ...) {
        char text[512];
        va_list args;

        va_start(args, format);
        (void) vsnprintf(text, sizeof text, format, args);
        va_end(args);
        (void) fprintf(stderr, "mini-vmm: %s%s%s\n", text, error < 0 ? ": " : "", error < 0 ? strerror(-error) : "");
        return error < 0 ? error : -EINVAL;
}

int complain_pagebroker(struct pb_client *client, int error, const char *what) {
        (void) fprintf(stderr, "mini-vmm: %s: %s (%s)\n", what, strerror(-error), pb_explain(client));
        return error;
}
