/* SPDX-License-Identifier: MIT */
#include "vcpu-state.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "complain.h"
#include "guest.h"

#define CR0_PE (UINT64_C(1) << 0)
#define CR0_NE (UINT64_C(1) << 5)
#define CR0_PG (UINT64_C(1) << 31)
#define CR4_PAE (UINT64_C(1) << 5)
#define EFER_LME (UINT64_C(1) << 8)
#define EFER_LMA (UINT64_C(1) << 10)

#define KVM_MSRS_MAX 1024 /* far more than KVM has names for */

#define MSR_TSC 0x10
#define MSR_SYSENTER 0x174 /* and the two behind it */
#define MSR_PAT 0x277
#define MSR_SYSCALL 0xc0000081 /* and the three behind it */
#define MSR_KERNEL_GS_BASE 0xc0000102

/* What the CPU keeps in MSRs and struct kvm_sregs does not have. The clock names a page of guest memory. */
static const uint32_t saved_msrs[] = {
        MSR_TSC,         MSR_SYSENTER,       MSR_SYSENTER + 1,        MSR_SYSENTER + 2,
        MSR_PAT,         MSR_SYSCALL,        MSR_SYSCALL + 1,         MSR_SYSCALL + 2,
        MSR_SYSCALL + 3, MSR_KERNEL_GS_BASE, MSR_KVM_SYSTEM_TIME_NEW,
};
static_assert(ELEMENTS(saved_msrs) <= VCPU_MSRS_MAX, "room for all");

union msrs {
        uint8_t room[sizeof(struct kvm_msrs) + VCPU_MSRS_MAX * sizeof(struct kvm_msr_entry)];
        struct kvm_msrs head;
};

static int kvm_has_msr(int kvm, uint32_t index) {
        union {
                struct kvm_msr_list list;
                uint8_t room[sizeof(struct kvm_msr_list) + KVM_MSRS_MAX * sizeof(uint32_t)];
        } all = { .list.nmsrs = KVM_MSRS_MAX };

        if (ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &all) < 0)
                return -errno;
        for (uint32_t i = 0; i < all.list.nmsrs; i++)
                if (all.list.indices[i] == index)
                        return 1;
        return 0;
}

static int vcpu_get_msrs(int kvm, int vcpu, struct vcpu_state *state) {
        union msrs msrs = { 0 };
        int r;

        for (size_t i = 0; i < ELEMENTS(saved_msrs); i++) {
                r = kvm_has_msr(kvm, saved_msrs[i]);
                if (r < 0)
                        return r;
                if (r > 0)
                        msrs.head.entries[msrs.head.nmsrs++].index = saved_msrs[i];
        }
        r = ioctl(vcpu, KVM_GET_MSRS, &msrs);
        if (r < 0)
                return -errno;
        /* KVM stops at the first one that it does not have and says how many it did. */
        state->n_msrs = (uint32_t) r;
        memcpy(state->msrs, msrs.head.entries, (size_t) r * sizeof state->msrs[0]);
        return 0;
}

static int vcpu_set_msrs(int vcpu, const struct vcpu_state *state) {
        union msrs msrs = { .head.nmsrs = state->n_msrs };
        int r;

        memcpy(msrs.head.entries, state->msrs, state->n_msrs * sizeof state->msrs[0]);
        r = ioctl(vcpu, KVM_SET_MSRS, &msrs);
        if (r < 0)
                return -errno;
        return (uint32_t) r == state->n_msrs ? 0 : -EINVAL;
}

int vcpu_state_save(int kvm, int vcpu, struct vcpu_state *ret) {
        struct vcpu_state state = { 0 };
        int r;

        if (ioctl(vcpu, KVM_GET_REGS, &state.regs) < 0 || ioctl(vcpu, KVM_GET_SREGS, &state.sregs) < 0 ||
            ioctl(vcpu, KVM_GET_VCPU_EVENTS, &state.events) < 0)
                return complain(-errno, "/dev/kvm: cannot read the vCPU's registers");
        state.has_xsave = ioctl(vcpu, KVM_GET_XSAVE, state.xsave) == 0 && ioctl(vcpu, KVM_GET_XCRS, &state.xcrs) == 0;
        if (!state.has_xsave && ioctl(vcpu, KVM_GET_FPU, &state.fpu) < 0)
                return complain(-errno, "/dev/kvm: cannot read the vCPU's floating point unit");
        r = vcpu_get_msrs(kvm, vcpu, &state);
        if (r < 0)
                return complain(r, "/dev/kvm: cannot read the vCPU's MSRs");
        *ret = state;
        return 0;
}

int vcpu_state_load(int vcpu, const struct vcpu_state *state) {
        int r;

        if (ioctl(vcpu, KVM_SET_SREGS, &state->sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &state->regs) < 0)
                return complain(-errno, "/dev/kvm: cannot set the vCPU's registers");
        if (state->has_xsave &&
            (ioctl(vcpu, KVM_SET_XCRS, &state->xcrs) < 0 || ioctl(vcpu, KVM_SET_XSAVE, state->xsave) < 0))
                return complain(-errno, "/dev/kvm: cannot set the vCPU's extended state");
        if (!state->has_xsave && ioctl(vcpu, KVM_SET_FPU, &state->fpu) < 0)
                return complain(-errno, "/dev/kvm: cannot set the vCPU's floating point unit");
        r = vcpu_set_msrs(vcpu, state);
        if (r < 0)
                return complain(r, "/dev/kvm: cannot set the vCPU's MSRs");
        if (ioctl(vcpu, KVM_SET_VCPU_EVENTS, &state->events) < 0)
                return complain(-errno, "/dev/kvm: cannot set the vCPU's pending events");
        return 0;
}

void vcpu_state_make_sibling(struct vcpu_state *state) {
        for (uint32_t i = 0; i < state->n_msrs; i++)
                if (state->msrs[i].index == MSR_KVM_SYSTEM_TIME_NEW)
                        state->msrs[i].data = 0;
}

static struct kvm_segment flat_segment(bool code) {
        return (struct kvm_segment) {
                .limit = UINT32_MAX,
                .selector = code ? 0x08 : 0x10,
                .type = code ? 11 : 3, /* execute and read, or read and write; accessed */
                .present = 1,
                .s = 1,
                .l = code,
                .db = !code,
                .g = 1,
        };
}

int vcpu_state_make(int kvm, int vcpu, struct vcpu_state *ret) {
        struct kvm_segment data = flat_segment(false);
        struct vcpu_state state;
        int r;

        r = vcpu_state_save(kvm, vcpu, &state);
        if (r < 0)
                return r;
        state.regs = (struct kvm_regs) { .rip = GUEST_CODE, .rflags = 2 };
        state.sregs.cs = flat_segment(true);
        state.sregs.ds = state.sregs.es = state.sregs.fs = state.sregs.gs = state.sregs.ss = data;
        state.sregs.cr0 = CR0_PE | CR0_NE | CR0_PG;
        state.sregs.cr3 = GUEST_TABLES;
        state.sregs.cr4 = CR4_PAE;
        state.sregs.efer = EFER_LME | EFER_LMA;
        for (uint32_t i = 0; i < state.n_msrs; i++)
                if (state.msrs[i].index == MSR_KVM_SYSTEM_TIME_NEW)
                        state.msrs[i].data = (GUEST_CLOCK + CLOCK_OFFSET) | KVM_MSR_ENABLED;
        *ret = state;
        return 0;
}
