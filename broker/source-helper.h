/* SPDX-License-Identifier: MIT */
#pragma once

#include "broker/source.h"

/*
 * A source that another process reads: pagebroker-KIND, started here, with a filter of its own and the identity that the
 * broker will have. It connects, and connects again, to what `what` names; the broker itself never opens a socket to
 * anywhere, parses nothing that comes from the network, and keeps its filter as narrow as it is.
 */
int source_open_helper(struct source **ret, const char *name, const char *kind, const char *what,
                       const struct source_context *context, char **ret_error);
