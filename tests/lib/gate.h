/* SPDX-License-Identifier: MIT */
/*
 * A source file that does what a test says: gatefs is a FUSE file system with one file, whose reads can be held,
 * released, failed, cut short or answered wrongly, and counted. Slow, failing and lying sources become deterministic.
 *
 *      test_gate_start(&gate, &image);
 *      test_gate_hold(&gate, 0, 4096);
 *      TEST_BROKER_START(&broker, test_gate_memory("ram0", &gate, ""));
 *      ... ask for page 0 ...
 *      test_gate_wait_held(&gate, 0, 4096, 1);         the broker's read has arrived, and stays
 *      ... this is how it looks while the source is slow ...
 *      test_gate_release(&gate, 0, 4096);
 *
 * The file bypasses page cache: every read of the broker arrives as it is (split at 1 MiB by the kernel), and none
 * arrives that it did not ask for. Ranges are bytes of the file; a rule acts on each read that touches its range.
 * The mount is private to the calling process and its later children, and goes when they have ended. One thread at a
 * time. A process with a held read cannot end, not even by SIGKILL: release first, or stop the gate.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "tests/lib/image.h"

struct test_gate {
        char dir[64];
        char path[80]; /* of the file */
        const struct test_image *image;
        int socket;
        pid_t pid;
};

/* require_fuse() first. The image must stay. */
void test_gate_start(struct test_gate *ret, const struct test_image *image);

/* Answers every held read with an error, unmounts. */
void test_gate_stop(struct test_gate *gate);

/* The --memory option for it, as test_memory(). */
const char *test_gate_memory(const char *name, const struct test_gate *gate, const char *more);

/* ---- rules ---- */

/* Which of the reads that touch a rule's range it acts on, counted from when it was made: the first `skip` are left
 * alone, then `times` of them are meant; 0: all further ones. */
struct test_gate_turns {
        uint32_t skip;
        uint32_t times;
};
#define TEST_GATE_ALWAYS ((struct test_gate_turns) { 0, 0 })
#define TEST_GATE_ONCE ((struct test_gate_turns) { 0, 1 })

/* Reads wait until test_gate_release(). What the other rules say about a read is decided when it arrives. */
void test_gate_hold(struct test_gate *gate, uint64_t offset, uint64_t length);
void test_gate_hold_turns(struct test_gate *gate, uint64_t offset, uint64_t length, struct test_gate_turns turns);

/* Reads fail with `error` (EIO). */
void test_gate_fail(struct test_gate *gate, uint64_t offset, uint64_t length, int error, struct test_gate_turns turns);

/* Reads end after `bytes` bytes. */
void test_gate_cut(struct test_gate *gate, uint64_t offset, uint64_t length, uint32_t bytes,
                   struct test_gate_turns turns);

/* Reads get every byte of the range inverted. { .skip = 1 } is content that changes between the first and the
 * second answer; TEST_GATE_ONCE is a first answer that is wrong. */
void test_gate_lie(struct test_gate *gate, uint64_t offset, uint64_t length, struct test_gate_turns turns);

/* Removes all holds that touch the range and answers the reads they held. */
void test_gate_release(struct test_gate *gate, uint64_t offset, uint64_t length);

/* Answers the reads held now; the holds stay. */
void test_gate_release_once(struct test_gate *gate, uint64_t offset, uint64_t length);

/* Removes all rules; answers everything held. */
void test_gate_open(struct test_gate *gate);

/* What fstat() says from now on: another mtime; another size. */
void test_gate_touch(struct test_gate *gate);
void test_gate_resize(struct test_gate *gate, uint64_t size);

/* ---- what happened ---- */

/* How many reads that touch the range have arrived; are held now. */
uint64_t test_gate_count(struct test_gate *gate, uint64_t offset, uint64_t length);
uint64_t test_gate_count_held(struct test_gate *gate, uint64_t offset, uint64_t length);

/* Wait until at least `n` reads that touch the range have arrived (been answered; are held). Fail the test if that takes too long. */
void test_gate_wait_arrived(struct test_gate *gate, uint64_t offset, uint64_t length, uint64_t n);
void test_gate_wait_answered(struct test_gate *gate, uint64_t offset, uint64_t length, uint64_t n);
void test_gate_wait_held(struct test_gate *gate, uint64_t offset, uint64_t length, uint64_t n);
