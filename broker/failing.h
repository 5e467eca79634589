/* SPDX-License-Identifier: MIT */
/*
 * When the log says that a source fails, and that it does so no more: once each, however many reads it is. Decides and
 * nothing else; the clock is an argument.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct failing {
        uint64_t since_us, last_us; /* of the failures that were not followed by a success; 0: none */
        uint64_t n;
};

/* A read has failed. True: it is the first one. */
bool failing_again(struct failing *failing, uint64_t now_us);

/* A read has succeeded; `is_retry`: one that had failed before. True: the source was failing, and is not any more;
 * `ret_was` is what it was like. Among good pages a bad one does not come and go: what counts is that the same read
 * succeeds, or that none has failed for a while. */
bool failing_no_more(struct failing *failing, bool is_retry, uint64_t now_us, struct failing *ret_was);
