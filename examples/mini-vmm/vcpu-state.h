/* SPDX-License-Identifier: MIT */
/* What a vCPU is, apart from memory. */
#pragma once

#include <linux/kvm.h>
#include <stdint.h>

#define VCPU_MSRS_MAX 16

struct vcpu_state {
        struct kvm_regs regs;
        struct kvm_sregs sregs;
        uint32_t xsave[1024]; /* struct kvm_xsave: what fits into 4 KiB, that is all but AMX */
        struct kvm_xcrs xcrs;
        struct kvm_vcpu_events events;
        uint32_t has_xsave; /* else `fpu` counts, and xsave and xcrs are zeros */
        uint32_t n_msrs;
        struct kvm_fpu fpu;
        struct kvm_msr_entry msrs[VCPU_MSRS_MAX];
};

/* The state in which the guest program is entered: long mode, at its first byte. `vcpu` is a fresh one. */
int vcpu_state_make(int kvm, int vcpu, struct vcpu_state *ret);

/* Everything is in `ret` only if the vCPU is not in the middle of an exit: see machine_settle(). */
int vcpu_state_save(int kvm, int vcpu, struct vcpu_state *ret);

/* For a vCPU that starts beside the one that was saved: the same state, without what names a page of its own. */
void vcpu_state_make_sibling(struct vcpu_state *state);

/* KVM touches guest memory in here (its clock): memory slots are in place, userfaultfds attached. */
int vcpu_state_load(int vcpu, const struct vcpu_state *state);
