/* SPDX-License-Identifier: MIT */
/* Memory for what is made and freed again for every fault. */
#pragma once

#include <stdlib.h>
#include <string.h>

/* As calloc(), which in glibc before 2.41 goes past the thread's own cache and takes the lock of the heap: threads that serve
 * no fault hold it too, and may be descheduled with it. */
static inline void *alloc_zeroed(size_t size) {
        void *p = malloc(size);

        return p ? memset(p, 0, size) : NULL;
}
