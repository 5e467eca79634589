/* SPDX-License-Identifier: MIT */
#pragma once

#include "broker/source.h"

/* A base with differences over it: of each page the topmost file that has data there. `source` is the base, the differences
 * ("file:PATH") go from the lowest to the topmost. Owns `source` from then on, also when it fails. */
int source_open_layers(struct source **ret, struct source *source, char *const layers[], unsigned n_layers, char **ret_error);
