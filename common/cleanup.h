/* SPDX-License-Identifier: MIT */
/* Every acquisition has a cleanup attribute; a take moves it on to its owner. */
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

/* Closes and returns -1; accepts -1; keeps errno. */
static inline int fd_close(int fd) {
        if (fd >= 0) {
                int saved = errno;

                (void) close(fd);
                errno = saved;
        }
        return -1;
}

static inline void fd_closep(int *fd) {
        *fd = fd_close(*fd);
}

static inline int fd_take(int *fd) {
        int ret = *fd;

        *fd = -1;
        return ret;
}

static inline void freep(void *p) {
        free(*(void **) p);
}

static inline void fclosep(FILE **f) {
        if (*f)
                (void) fclose(*f);
}

#define PTR_TAKE(p)                      \
        ({                               \
                __typeof__(p) *_p = &(p); \
                __typeof__(p) _v = *_p;   \
                *_p = NULL;              \
                _v;                      \
        })

/* Defines name##p() for _cleanup_(). */
#define DEFINE_CLEANUP(type, name)                \
        static inline void name##p(type **p) {    \
                if (*p)                           \
                        (void) name(*p);          \
        }

#define _cleanup_close_ _cleanup_(fd_closep)
#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_fclose_ _cleanup_(fclosep)
