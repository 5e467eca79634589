/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "common/cleanup.h"
#include "complain.h"

#define KVM_DEVICE "/dev/kvm"
#define CPUID_MAX 256
/* Three pages that Intel's KVM wants for itself: in the hole. */
#define TSS_GPA 0xfffbd000UL

int machine_open(struct machine *machine) {
        int r;

        machine->kvm = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
        if (machine->kvm < 0)
                return complain(-errno, KVM_DEVICE ": cannot open it: this machine has no KVM, or you no right to it");
        r = ioctl(machine->kvm, KVM_GET_API_VERSION, 0);
        if (r != KVM_API_VERSION)
                return complain(0, KVM_DEVICE ": speaks version %d, not %d", r, KVM_API_VERSION);
        machine->vm = ioctl(machine->kvm, KVM_CREATE_VM, 0);
        if (machine->vm < 0)
                return complain(-errno, KVM_DEVICE ": cannot create a virtual machine");
        if (ioctl(machine->vm, KVM_SET_TSS_ADDR, TSS_GPA) < 0)
                return complain(-errno, KVM_DEVICE ": cannot set the TSS address");
        r = ioctl(machine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
        if (r < 0)
                return complain(-errno, KVM_DEVICE ": cannot tell the size of struct kvm_run");
        machine->run_size = (size_t) r;
        return 0;
}

int machine_add_slot(struct machine *machine, unsigned slot, const struct region *region) {
        struct kvm_userspace_memory_region memory = {
                .slot = slot,
                .guest_phys_addr = region->gpa,
                .memory_size = region->size,
                .userspace_addr = (uintptr_t) region->addr,
        };

        if (ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &memory) < 0)
                return complain(-errno, KVM_DEVICE ": cannot add the memory at 0x%" PRIx64, region->gpa);
        return 0;
}

/* KVM lets go of the mapping before this returns. */
int machine_remove_slot(struct machine *machine, unsigned slot) {
        struct kvm_userspace_memory_region memory = { .slot = slot };

        if (ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &memory) < 0)
                return complain(-errno, KVM_DEVICE ": cannot take memory slot %u away", slot);
        return 0;
}

/* Long mode is refused to a vCPU whose CPUID does not have it. */
static int vcpu_set_cpuid(struct machine *machine, int vcpu) {
        union {
                struct kvm_cpuid2 cpuid;
                uint8_t room[sizeof(struct kvm_cpuid2) + CPUID_MAX * sizeof(struct kvm_cpuid_entry2)];
        } list = { .cpuid.nent = CPUID_MAX };

        if (ioctl(machine->kvm, KVM_GET_SUPPORTED_CPUID, &list) < 0 || ioctl(vcpu, KVM_SET_CPUID2, &list) < 0)
                return -errno;
        return 0;
}

int machine_add_vcpu(struct machine *machine) {
        struct vcpu *vcpu = &machine->vcpus[machine->n_vcpus];
        _cleanup_close_ int fd = -1;
        void *run;
        int r;

        fd = ioctl(machine->vm, KVM_CREATE_VCPU, (unsigned long) machine->n_vcpus);
        if (fd < 0)
                return complain(-errno, KVM_DEVICE ": cannot create vCPU %u", machine->n_vcpus);
        r = vcpu_set_cpuid(machine, fd);
        if (r < 0)
                return complain(r, KVM_DEVICE ": cannot set the CPUID of vCPU %u", machine->n_vcpus);
        run = mmap(NULL, machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (run == MAP_FAILED)
                return complain(-errno, KVM_DEVICE ": cannot map vCPU %u", machine->n_vcpus);
        *vcpu = (struct vcpu) { .machine = machine, .index = machine->n_vcpus, .fd = fd_take(&fd), .run = run };
        machine->n_vcpus++;
        return 0;
}

void machine_close(struct machine *machine) {
        for (unsigned i = 0; i < machine->n_vcpus; i++) {
                (void) munmap(machine->vcpus[i].run, machine->run_size);
                (void) fd_close(machine->vcpus[i].fd);
        }
        (void) fd_close(machine->vm);
        (void) fd_close(machine->kvm);
        *machine = (struct machine) MACHINE_INIT;
}
