/* SPDX-License-Identifier: MIT */
/* Waiting for outcomes, presence and free slots. PROTOCOL.md, section "Waiting". Async-signal-safe. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "client/client.h"
#include "client/piece.h"

struct wait {
        pb_client *client;
        const uint16_t *slots; /* whose outcomes are waited for */
        unsigned n_slots;
        struct cursor *cursor; /* presence of all of it ends the wait too; NULL: only outcomes count */
        uint64_t deadline_us;  /* absolute, CLOCK_MONOTONIC; USEC_INFINITY: none */
        uint64_t slice_us;     /* absolute end of the current slice */
};

/* 0: all outcomes are 0, or all pages present. Else the first error among the outcomes, -ETIMEDOUT, -ECONNRESET, or an
 * error of futex_waitv() itself (a seccomp filter). */
int wait_for_outcomes(struct wait *wait);

/* Waits until slot_claim() gives a slot: returns it. -EALREADY: the wait's cursor has found everything present
 * meanwhile. Else errors as above. */
int wait_for_slot(struct wait *wait);

/* The deadline of a call that starts now. */
uint64_t wait_get_deadline(const pb_client *client);
