/* SPDX-License-Identifier: MIT */
/* Do the books of a memory agree? For an admin who doubts: it looks at every word of the map, and takes the shards' locks
 * one after the other, each for as long as a fault does. */
#pragma once

#include <stdint.h>

struct memory;

struct audit_sums {
        uint64_t pages, slices;
};

/* Called with what does not fit: a keyword, and a sentence. A negative result ends the audit. */
typedef int (*audit_finding)(void *data, const char *what, const char *text);

/* Adds to `sums`. 0, or what `finding` returned. */
int audit_memory(struct memory *memory, audit_finding finding, void *data, struct audit_sums *sums);
