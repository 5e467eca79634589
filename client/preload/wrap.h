/* SPDX-License-Identifier: MIT */
#pragma once

/* Functions of libc that this library stands in front of; libpagebroker-preload.sym names them too. */
#define EXPORT __attribute__((visibility("default")))

/* Of the processor, not of the backing: what munmap() and mremap() round to. */
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096u
#endif

/* Of libc's ABI, without a declaration in its headers. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int directory, const char *path, int flags);
int __openat64_2(int directory, const char *path, int flags);
