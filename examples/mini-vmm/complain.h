/* SPDX-License-Identifier: MIT */
#pragma once

#include "common/macro.h"

/* "mini-vmm: text: reason" on standard error; returns `error`, a negative errno. 0 stands for "the text says it all",
 * and -EINVAL is returned. */
int complain(int error, const char *format, ...) PRINTF_LIKE(2, 3);

/* As above; ends with what libpagebroker says about this thread's last failure. */
struct pb_client;
int complain_pagebroker(struct pb_client *client, int error, const char *what);
