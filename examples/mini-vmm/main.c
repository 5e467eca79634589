/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "complain.h"
#include "machine.h"
#include "memory.h"
#include "options.h"
#include "restore.h"
#include "snapshot.h"

/* The guest's first life, up to where it asks for a snapshot. */
static int run_until_snapshot(struct machine *machine, const struct memory *memory, struct vcpu_state *ret) {
        struct vcpu *vcpu = &machine->vcpus[0];
        int r;

        for (unsigned i = 0; i < LAYOUT_REGIONS; i++) {
                r = machine_add_slot(machine, i, &memory->regions[i]);
                if (r < 0)
                        return r;
        }
        r = machine_add_vcpu(machine);
        if (r < 0)
                return r;
        r = vcpu_state_make(machine->kvm, vcpu->fd, ret);
        if (r < 0)
                return r;
        r = vcpu_state_load(vcpu->fd, ret);
        if (r < 0)
                return r;
        r = machine_run(machine, vcpu);
        if (r <= 0)
                return r < 0 ? r : complain(0, "the guest was done without a snapshot");
        r = machine_settle(vcpu);
        if (r < 0)
                return r;
        return vcpu_state_save(machine->kvm, vcpu->fd, ret);
}

static int run(const struct options *options) {
        _cleanup_(memory_close) struct memory memory = MEMORY_INIT;
        _cleanup_(machine_close) struct machine machine = MACHINE_INIT;
        struct snapshot_state state = { .magic = SNAPSHOT_MAGIC, .layout = options->layout };
        int r;

        r = machine_open(&machine);
        if (r < 0)
                return r;
        r = memory_open(&memory, &options->layout);
        if (r < 0)
                return r;
        layout_load_program(&options->layout, &memory.regions[0]);
        r = run_until_snapshot(&machine, &memory, &state.vcpu);
        if (r < 0)
                return r;
        return snapshot_save(options->snapshot, &state, &memory);
}

/* What a pagebrokerd has to be told about the snapshot, one argument a line. */
static int print_arguments(const struct options *options) {
        _cleanup_free_ char *folder = NULL;
        struct snapshot_state state;
        int r;

        r = snapshot_load_state(options->snapshot, &state);
        if (r < 0)
                return r;
        folder = realpath(options->snapshot, NULL);
        if (!folder)
                return complain(-errno, "--snapshot=%s", options->snapshot);
        (void) printf("--memory=ram,size=%" PRIu64 ",source=file:%s/memory.img", state.layout.size, folder);
        if (state.layout.page_size != PB_PAGE_SIZE)
                (void) printf(",huge=%" PRIu64 "M", state.layout.page_size >> 20);
        for (unsigned i = 0; i < LAYOUT_REGIONS; i++) {
                struct region region = layout_get_region(&state.layout, i);

                (void) printf("\n--region=%" PRIu64 ",size=%" PRIu64 ",memory=ram,offset=%" PRIu64, region.gpa,
                              region.size, region.offset);
        }
        if (state.layout.page_size == 1ull << 30)
                (void) printf("\n--gigantic-faults=on");
        (void) printf("\n");
        return 0;
}

int main(int argc, char *argv[]) {
        uint64_t start_us = clock_now_us();
        struct options options;
        int r;

        r = options_parse(&options, argc, argv);
        if (r > 0)
                switch (options.command) {
                case COMMAND_RUN:
                        r = run(&options);
                        break;
                case COMMAND_RESTORE:
                        r = restore(&options, start_us);
                        break;
                case COMMAND_ARGUMENTS:
                        r = print_arguments(&options);
                        break;
                }
        if (fflush(stdout) != 0 && r >= 0)
                r = complain(-errno, "standard output");
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
