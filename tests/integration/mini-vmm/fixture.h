/* SPDX-License-Identifier: MIT */
/* mini-vmm as a test sees it: a program that makes a snapshot, and one that says what the guest found in it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macro.h"
#include "tests/lib/gate.h"
#include "tests/lib/test.h"

/* What the guest's memory looks like; the VMM has it in layout.c. */
#define VMM_HIGH_GPA 0x100000000ull
#define VMM_CLOCK_GPA 0x3000ull
#define VMM_PAGE_WORDS 504u /* of a page's 512 words of 64 bits; behind them are the marks */

#define MIB ((uint64_t) 1 << 20)

struct vmm_snapshot {
        char dir[64];
        uint64_t size, low_size;
};

struct vmm_mismatch {
        unsigned vcpu;
        uint64_t gpa, expected, found;
};

struct vmm_verdict {
        int status;      /* exit status of mini-vmm */
        char text[4096]; /* all that it printed */
        uint64_t vcpus, pages, mismatches;
        uint64_t pages_data, present_at_alive, present_at_verdict, faults_peer, faults_linked;
        unsigned n_first;
        struct vmm_mismatch first[16];
};

/* Runs a guest of `size` bytes until its snapshot. `options` may be NULL. Fails the test if that does not work. */
void vmm_snapshot_make(struct vmm_snapshot *ret, uint64_t size, const char *const options[]);
#define VMM_SNAPSHOT_MAKE(snapshot, size, ...) \
        vmm_snapshot_make((snapshot), (size), (const char *const[]) { __VA_ARGS__ __VA_OPT__(, ) NULL })

void vmm_snapshot_unlink(struct vmm_snapshot *snapshot);

/* Where in the image a guest-physical address lies. */
uint64_t vmm_snapshot_offset(const struct vmm_snapshot *snapshot, uint64_t gpa);

/* Inverts the byte at `gpa` in the image. (The guest looks at the first word of a page twice: better another one.) */
void vmm_snapshot_flip(const struct vmm_snapshot *snapshot, uint64_t gpa);

/* The word at `gpa` as the image has it. */
uint64_t vmm_snapshot_read(const struct vmm_snapshot *snapshot, uint64_t gpa);

/* Puts a gate before the image. `ret_image` must stay as long as the gate. */
void vmm_gate_start(struct test_gate *ret, struct test_image *ret_image, const struct vmm_snapshot *snapshot);

/* Starts a broker as `mini-vmm arguments` says, and with these options. Its source is `gate`, if that is not NULL. */
void vmm_broker_start(struct test_broker *ret, const struct vmm_snapshot *snapshot, const struct test_gate *gate,
                      bool supervised, const char *const options[]);
#define VMM_BROKER_START(broker, snapshot, gate, ...) \
        vmm_broker_start((broker), (snapshot), (gate), false, (const char *const[]) { __VA_ARGS__ __VA_OPT__(, ) NULL })
#define VMM_BROKER_START_SUPERVISED(broker, snapshot, ...) \
        vmm_broker_start((broker), (snapshot), NULL, true, (const char *const[]) { __VA_ARGS__ __VA_OPT__(, ) NULL })

struct vmm_process {
        pid_t pid;
        int out; /* what it prints */
};

/* Starts mini-vmm restore --json; `broker` NULL: --eager. */
void vmm_restore_start(struct vmm_process *ret, const struct vmm_snapshot *snapshot, const struct test_broker *broker,
                       const char *const options[]);

/* Waits until it has ended. */
struct vmm_verdict vmm_restore_wait(struct vmm_process *process);

/* Both. */
struct vmm_verdict vmm_restore(const struct vmm_snapshot *snapshot, const struct test_broker *broker,
                               const char *const options[]);
#define VMM_RESTORE(snapshot, broker, ...) \
        vmm_restore((snapshot), (broker), (const char *const[]) { __VA_ARGS__ __VA_OPT__(, ) NULL })

/* The guest looked at all pages and found all as it was. */
void vmm_verdict_assert_good(const struct vmm_verdict *verdict);
