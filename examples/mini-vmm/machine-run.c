/* SPDX-License-Identifier: MIT */
/* The vCPUs at work: exits, and a thread each. */
#include "machine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "complain.h"

static int vcpu_note_mismatch(struct vcpu *vcpu) {
        struct kvm_regs regs;

        if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
                return -errno;
        if (vcpu->mismatches < VCPU_MISMATCHES_MAX)
                vcpu->first[vcpu->mismatches] = (struct mismatch) {
                        .gpa = regs.rdi,
                        .expected = regs.rax,
                        .found = regs.rdx,
                };
        vcpu->mismatches++;
        return 0;
}

/* The guest counts too; a difference is a fault of ours, or of a guest that runs wild. */
static int vcpu_note_done(struct vcpu *vcpu) {
        struct kvm_regs regs;

        if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
                return -errno;
        vcpu->done_us = clock_now_us();
        if (regs.rbx != vcpu->mismatches)
                return complain(0, "vCPU %u: counts %" PRIu64 " mismatches, told us of %" PRIu64, vcpu->index,
                                (uint64_t) regs.rbx, vcpu->mismatches);
        return 0;
}

static int vcpu_note_sum(struct vcpu *vcpu) {
        const struct machine_hooks *hooks = &vcpu->machine->hooks;
        struct kvm_regs regs;
        int r;

        if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
                return complain(-errno, "/dev/kvm: cannot read registers of vCPU %u", vcpu->index);
        r = hooks->summed ? hooks->summed(hooks->data, regs.rax) : 0;
        return r < 0 ? r : 1;
}

/* Returns 1 to go on, 0 if the guest has come to an end of its doing (a snapshot is wanted, or it is done). */
static int vcpu_hear(struct vcpu *vcpu, uint16_t port) {
        const struct machine_hooks *hooks = &vcpu->machine->hooks;
        int r;

        switch (port) {
        case PORT_ALIVE:
                if (hooks->alive)
                        hooks->alive(hooks->data, vcpu->index);
                return 1;
        case PORT_PROGRESS:
                return 1;
        case PORT_MISMATCH:
                r = vcpu_note_mismatch(vcpu);
                return r < 0 ? complain(r, "/dev/kvm: cannot read registers of vCPU %u", vcpu->index) : 1;
        case PORT_DONE:
                return vcpu_note_done(vcpu);
        case PORT_SUM:
                return vcpu_note_sum(vcpu);
        case PORT_SNAPSHOT:
                return 0;
        default:
                return complain(0, "vCPU %u: wrote to port 0x%x, where nothing is", vcpu->index, port);
        }
}

static int vcpu_answer(struct vcpu *vcpu, uint16_t port, uint32_t *ret) {
        const struct machine_hooks *hooks = &vcpu->machine->hooks;
        int r;

        switch (port) {
        case PORT_INDEX:
                *ret = vcpu->index;
                return 1;
        case PORT_MULTIPLIER:
                *ret = hooks->multiplier;
                return 1;
        case PORT_WHOLE:
                *ret = hooks->whole;
                return 1;
        case PORT_PLUGGED:
                r = vcpu->index == 0 && hooks->plugged ? hooks->plugged(hooks->data, ret) : 0;
                return r < 0 ? r : 1;
        default:
                return complain(0, "vCPU %u: read port 0x%x, where nothing is", vcpu->index, port);
        }
}

static int vcpu_handle_io(struct vcpu *vcpu) {
        uint32_t value = 0;
        int r;

        if (vcpu->run->io.direction == KVM_EXIT_IO_OUT)
                return vcpu_hear(vcpu, vcpu->run->io.port);
        if (vcpu->run->io.size != sizeof value)
                return complain(0, "vCPU %u: read %u bytes from port 0x%x, not 4", vcpu->index, vcpu->run->io.size,
                                vcpu->run->io.port);
        r = vcpu_answer(vcpu, vcpu->run->io.port, &value);
        if (r > 0)
                memcpy((uint8_t *) vcpu->run + vcpu->run->io.data_offset, &value, sizeof value);
        return r;
}

static int vcpu_complain_exit(struct vcpu *vcpu) {
        struct kvm_regs regs = { 0 };

        (void) ioctl(vcpu->fd, KVM_GET_REGS, &regs);
        switch (vcpu->run->exit_reason) {
        case KVM_EXIT_MMIO:
                return complain(0, "vCPU %u: %s 0x%" PRIx64 ", where no memory is (rip 0x%" PRIx64 ")", vcpu->index,
                                vcpu->run->mmio.is_write ? "wrote to" : "read", (uint64_t) vcpu->run->mmio.phys_addr,
                                (uint64_t) regs.rip);
        case KVM_EXIT_SHUTDOWN:
                return complain(0, "vCPU %u: shut down by a triple fault (rip 0x%" PRIx64 ")", vcpu->index,
                                (uint64_t) regs.rip);
        case KVM_EXIT_INTERNAL_ERROR:
                return complain(0, "vCPU %u: KVM's internal error %u (rip 0x%" PRIx64 ")", vcpu->index,
                                vcpu->run->internal.suberror, (uint64_t) regs.rip);
        default:
                return complain(0, "vCPU %u: unexpected exit %u (rip 0x%" PRIx64 ")", vcpu->index,
                                vcpu->run->exit_reason, (uint64_t) regs.rip);
        }
}

int machine_run(struct machine *machine, struct vcpu *vcpu) {
        int r;

        for (;;) {
                if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
                        if (errno == EINTR || errno == EAGAIN)
                                continue;
                        return complain(-errno, "/dev/kvm: vCPU %u cannot run", vcpu->index);
                }
                if (vcpu->run->exit_reason != KVM_EXIT_IO)
                        return vcpu_complain_exit(vcpu);
                r = vcpu_handle_io(vcpu);
                if (r <= 0)
                        return r < 0 ? r : vcpu->run->io.port == PORT_SNAPSHOT;
        }
}

int machine_settle(struct vcpu *vcpu) {
        int r;

        vcpu->run->immediate_exit = 1;
        r = ioctl(vcpu->fd, KVM_RUN, 0);
        vcpu->run->immediate_exit = 0;
        if (r < 0 && errno == EINTR)
                return 0;
        return complain(r < 0 ? -errno : 0, "/dev/kvm: vCPU %u cannot be stopped", vcpu->index);
}

static void *vcpu_main(void *data) {
        struct vcpu *vcpu = data;
        char name[16];
        int r;

        (void) snprintf(name, sizeof name, "vcpu%u", vcpu->index);
        (void) pthread_setname_np(pthread_self(), name);
        r = machine_run(vcpu->machine, vcpu);
        if (r > 0)
                r = complain(0, "vCPU %u: wants another snapshot", vcpu->index);
        vcpu->result = r;
        return NULL;
}

/* Waits for a vCPU, looking around once a second: one that waits for a page of a dead broker waits for ever. */
static int vcpu_join(struct vcpu *vcpu, int (*check)(void *data), void *data) {
        struct timespec deadline;
        int r;

        for (;;) {
                (void) clock_gettime(CLOCK_REALTIME, &deadline);
                deadline.tv_sec++;
                r = pthread_timedjoin_np(vcpu->thread, NULL, &deadline);
                if (r != ETIMEDOUT)
                        return r ? -r : vcpu->result;
                if (check && check(data) < 0)
                        _exit(EXIT_FAILURE);
        }
}

int machine_run_all(struct machine *machine, int (*check)(void *data), void *data) {
        int r, result = 0;

        for (unsigned i = 0; i < machine->n_vcpus; i++) {
                r = pthread_create(&machine->vcpus[i].thread, NULL, vcpu_main, &machine->vcpus[i]);
                if (r) {
                        /* Those that run use what the caller would take down. */
                        (void) complain(-r, "cannot start a thread for vCPU %u", i);
                        _exit(EXIT_FAILURE);
                }
        }
        for (unsigned i = 0; i < machine->n_vcpus; i++) {
                r = vcpu_join(&machine->vcpus[i], check, data);
                if (r < 0)
                        result = r;
        }
        return result;
}
