/* SPDX-License-Identifier: MIT */
/* Of linux/userfaultfd.h since Linux 6.6, for older headers. */
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#ifndef UFFDIO_POISON
#define UFFD_FEATURE_POISON (1u << 14)
struct uffdio_poison {
        struct uffdio_range range;
        __u64 mode;
        __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif
