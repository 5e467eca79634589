/* SPDX-License-Identifier: MIT */
#include "client/preload/next.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Written once, before the program has threads (or by the first caller with the same values). */
static struct {
        void *(*mmap)(void *, size_t, int, int, int, off_t);
        int (*munmap)(void *, size_t);
        int (*madvise)(void *, size_t, int);
        int (*mlock)(const void *, size_t);
        int (*mlock2)(const void *, size_t, unsigned);
        int (*mlockall)(int);
        int (*openat)(int, const char *, int, ...);
        void *(*mremap)(void *, size_t, size_t, int, ...);
} next;

/* ISO C has no conversion from the void pointer of dlsym() to a function pointer; POSIX says that the bits do. */
#define RESOLVE(name) (*(void **) (void *) &next.name = dlsym(RTLD_NEXT, #name))

void next_resolve(void) {
        RESOLVE(mmap);
        RESOLVE(munmap);
        RESOLVE(madvise);
        RESOLVE(mlock);
        RESOLVE(mlock2);
        RESOLVE(mlockall);
        RESOLVE(openat);
        RESOLVE(mremap);
}

void *next_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
        if (next.mmap)
                return next.mmap(address, length, protection, flags, fd, offset);
        return (void *) syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

int next_munmap(void *address, size_t length) {
        return next.munmap ? next.munmap(address, length) : (int) syscall(SYS_munmap, address, length);
}

int next_madvise(void *address, size_t length, int advice) {
        return next.madvise ? next.madvise(address, length, advice)
                            : (int) syscall(SYS_madvise, address, length, advice);
}

int next_mlock(const void *address, size_t length) {
        return next.mlock ? next.mlock(address, length) : (int) syscall(SYS_mlock, address, length);
}

int next_mlock2(const void *address, size_t length, unsigned flags) {
        return next.mlock2 ? next.mlock2(address, length, flags) : (int) syscall(SYS_mlock2, address, length, flags);
}

int next_mlockall(int flags) {
        return next.mlockall ? next.mlockall(flags) : (int) syscall(SYS_mlockall, flags);
}

int next_openat(int directory, const char *path, int flags, mode_t mode) {
        return next.openat ? next.openat(directory, path, flags, mode)
                           : (int) syscall(SYS_openat, directory, path, flags, mode);
}

void *next_mremap(void *address, size_t old_length, size_t new_length, int flags, void *new_address) {
        if (next.mremap)
                return next.mremap(address, old_length, new_length, flags, new_address);
        return (void *) syscall(SYS_mremap, address, old_length, new_length, flags, new_address);
}
