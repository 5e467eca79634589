/* SPDX-License-Identifier: MIT */
/* A virtual machine without devices: memory slots, vCPUs, and a thread for each of these. */
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest.h"
#include "layout.h"

#define MACHINE_VCPUS_MAX PAGE_MARKS
#define VCPU_MISMATCHES_MAX 8 /* described; all are counted */

struct machine;

struct mismatch {
        uint64_t gpa, expected, found;
};

struct vcpu {
        struct machine *machine;
        unsigned index;
        int fd;
        struct kvm_run *run;
        pthread_t thread;
        int result;       /* of its thread: 0 once the guest was done */
        uint64_t done_us; /* when that was, CLOCK_MONOTONIC */
        uint64_t mismatches;
        struct mismatch first[VCPU_MISMATCHES_MAX];
};

/* What the guest is told when it asks, and whom to tell what it says. */
struct machine_hooks {
        uint32_t multiplier;                      /* PORT_MULTIPLIER */
        uint32_t whole;                           /* PORT_WHOLE */
        void (*alive)(void *data, unsigned vcpu); /* in the vCPU's thread, as all of these */
        /* The guest asks for more memory: the pages at GUEST_PLUG, 0: there is none. It has summed them up. Both complain and
         * return a negative errno. NULL: nothing is plugged in. */
        int (*plugged)(void *data, uint32_t *ret_pages);
        int (*summed)(void *data, uint64_t sum);
        void *data;
};

struct machine {
        int kvm, vm;
        size_t run_size;
        struct machine_hooks hooks;
        unsigned n_vcpus;
        struct vcpu vcpus[MACHINE_VCPUS_MAX];
};

#define MACHINE_INIT \
        { .kvm = -1, .vm = -1 }

/* All of these complain and return a negative errno. */
int machine_open(struct machine *machine);
int machine_add_slot(struct machine *machine, unsigned slot, const struct region *region);
int machine_remove_slot(struct machine *machine, unsigned slot);
int machine_add_vcpu(struct machine *machine);

/* Accepts half-built ones. */
void machine_close(struct machine *machine);

/* Runs a vCPU in the calling thread until the guest wants a snapshot (1) or is done (0). */
int machine_run(struct machine *machine, struct vcpu *vcpu);

/* Completes the exit that the vCPU is in, without letting the guest go on: its state can be saved then. */
int machine_settle(struct vcpu *vcpu);

/* Runs all vCPUs until the guest is done on each. `check` is called every second; once it fails (and has complained) the
 * process ends here: nothing can be taken down under a vCPU that runs. */
int machine_run_all(struct machine *machine, int (*check)(void *data), void *data);
