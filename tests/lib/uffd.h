/* SPDX-License-Identifier: MIT */
/* A userfaultfd in the test's own process, for tests of kernel facts and of peers. */
#pragma once

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of linux/userfaultfd.h since 5.13, 6.6: for older headers. */
#ifndef UFFDIO_CONTINUE
#error "linux/userfaultfd.h is older than 5.13"
#endif

/* One that covers kernel accesses, close-on-exec and non-blocking, before UFFDIO_API; or a negative errno. */
int test_uffd_open(void);

/* UFFDIO_API with `features`. */
int test_uffd_enable(int fd, uint64_t features);

/* open + enable with minor faults on shmem and hugetlb; fails the test if that does not work. */
int test_uffd_new(void);

/* UFFDIO_REGISTER, MISSING and MINOR. 0 or a negative errno. */
int test_uffd_register(int fd, void *addr, size_t length);
int test_uffd_unregister(int fd, void *addr, size_t length);

/* UFFDIO_CONTINUE. Returns the bytes mapped or a negative errno. */
int64_t test_uffd_continue(int fd, void *addr, size_t length);
int test_uffd_wake(int fd, void *addr, size_t length);

/* Waits for one fault and returns its address; fails the test after `timeout_ms`. `ret_flags` may be NULL. */
uint64_t test_uffd_wait_fault(int fd, int timeout_ms, uint64_t *ret_flags);

/* Is there no fault to read now? */
bool test_uffd_is_quiet(int fd);
