/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into pagebroker-nbd: its third and every later question for a host's address is not answered while the file
 * $TEST_HOLD_RESOLVER exists. The first two are those of its start and of its first connection. A name server that is
 * silent, without one.
 */
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int resolve(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret);

__attribute__((visibility("default"))) int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                                                       struct addrinfo **ret) {
        static atomic_uint n_asked;
        const char *path = getenv("TEST_HOLD_RESOLVER");
        resolve *next = (resolve *) dlsym(RTLD_NEXT, "getaddrinfo");

        if (atomic_fetch_add(&n_asked, 1) >= 2)
                while (path && access(path, F_OK) == 0)
                        (void) nanosleep(&(struct timespec) { .tv_nsec = 1000000 }, NULL);
        return next(node, service, hints, ret);
}
