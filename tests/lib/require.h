/* SPDX-License-Identifier: MIT */
/* What a test needs of the machine. Each skips the test, with the reason, where it is not there. */
#pragma once

#include <stdint.h>

void require_root(void);
void require_kvm(void);
/* /dev/userfaultfd (or the capability), and faults of the kernel itself. */
void require_uffd(void);
/* `n` free huge pages of `size` bytes (2 MiB, 1 GiB), reserved now and given back when the test ends. */
void require_hugepages(uint64_t n, uint64_t size);
/* /dev/fuse and the right to mount: for tests/lib/gate.h. */
void require_fuse(void);
/* Another user's id (65534) can be taken. */
void require_other_uid(void);
/* The kernel is at least this one. */
void require_kernel(unsigned major, unsigned minor);
/* The program is in $PATH. */
void require_program(const char *name);
/* io_uring is not forbidden. */
void require_io_uring(void);

#define TEST_OTHER_UID 65534
#define HUGE_2M (2ull << 20)
#define HUGE_1G (1ull << 30)
