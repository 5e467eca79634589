/* SPDX-License-Identifier: MIT */
#pragma once

#include "client/ctl/ctl.h"

/* Serves GET /metrics on ctl->listen, until SIGTERM or SIGINT. */
int metrics_listen(const struct ctl *ctl);
