/* SPDX-License-Identifier: MIT */
#pragma once

#include "broker/source.h"

/* A raw image in a file: byte n of the file is byte n of the source. */
int source_open_file(struct source **ret, const char *name, const char *path, char **ret_error);
