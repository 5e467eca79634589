/* SPDX-License-Identifier: MIT */
/*
 * The functions that this library stands in front of: the next definition in the program's lookup order, or the bare
 * system call as long as that is not known (a library's constructor may call us before ours has run) or if there is
 * none.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

/* Looks the functions up. Calls the dynamic linker, which may call malloc: only from the constructor. */
void next_resolve(void);

void *next_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int next_munmap(void *address, size_t length);
int next_madvise(void *address, size_t length, int advice);
int next_mlock(const void *address, size_t length);
int next_mlock2(const void *address, size_t length, unsigned flags);
int next_mlockall(int flags);
int next_openat(int directory, const char *path, int flags, mode_t mode);
void *next_mremap(void *address, size_t old_length, size_t new_length, int flags, void *new_address);
