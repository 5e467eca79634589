/* SPDX-License-Identifier: MIT */
/* What a test (gate.c) tells gatefs over a SOCK_SEQPACKET pair: one order, one answer, each in one packet. */
#pragma once

#include <stdint.h>

enum gate_what {
        GATE_HOLD,
        GATE_FAIL,
        GATE_CUT,
        GATE_LIE,
        GATE_RELEASE, /* value 1: the rules stay */
        GATE_OPEN,
        GATE_TOUCH,
        GATE_RESIZE,
        GATE_COUNT, /* value: enum gate_count */
        GATE_WAIT,  /* value: enum gate_count; answered when `n` is reached */
};

enum gate_count {
        GATE_ARRIVED,
        GATE_ANSWERED,
        GATE_HELD,
};

struct gate_order {
        uint32_t what;
        uint32_t skip;
        uint32_t times;
        uint32_t value; /* errno, bytes, enum gate_count */
        uint64_t offset;
        uint64_t length;
        uint64_t n;
};

/* Inherited by gatefs. */
#define GATE_SOCKET_FD 3

/* The name of the one file. */
#define GATE_FILE "image"
