/* SPDX-License-Identifier: MIT */
/*
 * A stand-in for the page broker: the device is linked with stand-in.c in place of libpagebroker, and the test decides
 * which page comes when, or fails. Absent pages are PROT_NONE in the device, so a load, a store or a system call on
 * guest memory that was not asked for is a crash or an error, never luck.
 *
 * Both ends of one SOCK_SEQPACKET connection, on which the test listens.
 */
#pragma once

#include <stdint.h>

#include "client/pagebroker.h"

#define STAND_IN_RANGES_MAX 260u
#define STAND_IN_REGIONS_MAX 4u

struct stand_in_region {
        uint64_t gpa;
        uint64_t size;
        uint64_t offset;
};

/* Test, first packet, with the memfd. */
struct stand_in_hello {
        uint64_t size; /* of the memfd */
        uint32_t n_regions;
        uint32_t limit; /* requests at once; one more is -EAGAIN */
        struct stand_in_region regions[STAND_IN_REGIONS_MAX];
};

/* Test: pages of the memfd are there; a request is decided; the device may begin. */
enum stand_in_order_type {
        STAND_IN_GRANT = 1,
        STAND_IN_COMPLETE = 2,
        STAND_IN_BEGIN = 3,
};

struct stand_in_order {
        uint32_t type;
        int32_t result;
        uint64_t cookie;
        uint64_t offset;
        uint64_t length;
};

/* Device: pb_submit() that found an absent page. */
struct stand_in_submit {
        uint64_t cookie;
        uint32_t n;
        uint32_t padding;
        struct pb_range ranges[STAND_IN_RANGES_MAX];
};
