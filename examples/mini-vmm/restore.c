/* SPDX-License-Identifier: MIT */
#include "restore.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "complain.h"
#include "machine.h"
#include "memory.h"
#include "plug.h"
#include "report.h"
#include "snapshot.h"

/* Odd and large: neighbours in time are far from each other in memory. */
#define ORDER_RANDOM UINT32_C(2654435761)

struct restored {
        const struct options *options;
        struct snapshot_state state;
        struct memory memory; /* --eager */
        pb_client *client;    /* --pagebroker */
        struct machine machine;
        uint64_t start_us, alive_us;
        struct pb_stats alive;
        struct plug plug; /* --plug */
};

/* Under every vCPU's feet: this comes last but for the memory. */
static void restored_done(struct restored *restored) {
        plug_done(&restored->plug);
        machine_close(&restored->machine);
        memory_close(&restored->memory);
        restored->client = pb_disconnect(restored->client);
}

static int restored_connect(struct restored *restored) {
        const char *address = restored->options->pagebroker;
        struct pb_options options = {
                .size = sizeof options,
                .role = PB_ROLE_VMM,
                .name = "mini-vmm",
                .reconnect_us = restored->options->reconnect_s > 0
                                        ? (int64_t) restored->options->reconnect_s * 1000000
                                        : -1,
        };
        int r = pb_connect(&restored->client, address, &options);

        if (r == -EACCES)
                return complain(r, "--pagebroker=%s: the broker does not let this user in as the VMM (see --allow of pagebrokerd)",
                                address);
        return r < 0 ? complain(r, "--pagebroker=%s: cannot connect; is pagebrokerd running, with this --socket?", address) : 0;
}

/* Region `index` of the guest, as the broker has mapped it into this process. It has to be what the guest expects. */
static int restored_get_region(struct restored *restored, unsigned index, struct region *ret) {
        struct region want = layout_get_region(&restored->state.layout, index);
        struct pb_region have = { 0 };
        int r = pb_get_region(restored->client, index, &have);

        if (r < 0 && r != -ENOENT)
                return complain_pagebroker(restored->client, r, "--pagebroker: cannot get the regions");
        if (r < 0 || have.gpa != want.gpa || have.size != want.size)
                return complain(0,
                                "--pagebroker: the guest needs 0x%" PRIx64 " bytes at 0x%" PRIx64
                                ", the broker has 0x%" PRIx64 " at 0x%" PRIx64
                                " (mini-vmm arguments prints what to tell it)",
                                want.size, want.gpa, have.size, have.gpa);
        want.addr = have.addr;
        *ret = want;
        return 0;
}

/*
 * The lazy way. What matters is the order: map (pb_connect() does), attach, and only then let KVM know of the
 * mappings. Nothing in this process, nor KVM on its behalf, may touch them before pb_attach_vmm() has returned.
 */
static int restored_get_lazy(struct restored *restored, struct region regions[static LAYOUT_REGIONS]) {
        struct pb_vmm_options vmm = { .size = sizeof vmm, .shards = restored->options->n_shards };
        int r;

        r = restored_connect(restored);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < LAYOUT_REGIONS; i++) {
                r = restored_get_region(restored, i, &regions[i]);
                if (r < 0)
                        return r;
        }
        r = pb_attach_vmm(restored->client, &vmm);
        return r < 0 ? complain_pagebroker(restored->client, r, "--pagebroker: cannot hand over the memory") : 0;
}

static int restored_get_eager(struct restored *restored, struct region regions[static LAYOUT_REGIONS]) {
        int r = memory_open(&restored->memory, &restored->state.layout);

        if (r < 0)
                return r;
        for (unsigned i = 0; i < LAYOUT_REGIONS; i++)
                regions[i] = restored->memory.regions[i];
        return snapshot_load_memory(restored->options->snapshot, &restored->memory);
}

/* Memory slots first, vCPU state last: loading it makes KVM write to guest memory (its clock). */
static int restored_build(struct restored *restored, const struct region regions[static LAYOUT_REGIONS]) {
        struct machine *machine = &restored->machine;
        struct vcpu_state state = restored->state.vcpu;
        int r;

        for (unsigned i = 0; i < LAYOUT_REGIONS; i++) {
                r = machine_add_slot(machine, i, &regions[i]);
                if (r < 0)
                        return r;
        }
        for (unsigned i = 0; i < restored->options->n_vcpus; i++) {
                r = machine_add_vcpu(machine);
                if (r < 0)
                        return r;
                r = vcpu_state_load(machine->vcpus[i].fd, &state);
                if (r < 0)
                        return r;
                vcpu_state_make_sibling(&state);
        }
        return 0;
}

static int restored_get_stats(struct restored *restored, struct pb_stats *ret) {
        int r;

        *ret = (struct pb_stats) { .size = sizeof *ret };
        r = pb_get_stats(restored->client, ret);
        return r < 0 ? complain_pagebroker(restored->client, r, "--pagebroker: cannot get the counters") : 0;
}

/* In the thread of each vCPU. */
static void restored_alive(void *data, unsigned vcpu) {
        struct restored *restored = data;

        if (vcpu != 0)
                return;
        restored->alive_us = clock_now_us();
        if (!restored->client)
                return;
        (void) restored_get_stats(restored, &restored->alive);
        if (restored->options->fill_after_alive && pb_set_fill(restored->client, true) < 0)
                (void) complain(0, "--fill-after-alive: %s", pb_explain(restored->client));
}

static int restored_plugged(void *data, uint32_t *ret_pages) {
        struct restored *restored = data;

        return plug_in(&restored->plug, ret_pages);
}

static int restored_summed(void *data, uint64_t sum) {
        struct restored *restored = data;

        return plug_out(&restored->plug, sum);
}

/* A vCPU that waits for a page waits on, whatever becomes of it: without a look at the broker nothing would end this. */
static int restored_check(void *data) {
        struct restored *restored = data;
        struct pb_stats stats;
        int r;

        if (!restored->client)
                return 0;
        r = restored_get_stats(restored, &stats);
        if (r < 0)
                return r;
        if (stats.pages_poisoned > 0)
                return complain(0,
                                "the guest waits for a page that will not come: %" PRIu64
                                " could not be read (the broker's log says why)",
                                stats.pages_poisoned);
        return 0;
}

static int restored_report(struct restored *restored) {
        struct guest_params params = layout_get_params(&restored->state.layout);
        struct report report = {
                .machine = &restored->machine,
                .n_pages = params.n_pages - params.first_page,
                .start_us = restored->start_us,
                .alive_us = restored->alive_us,
                .lazy = restored->client,
                .alive = restored->alive,
        };
        uint64_t n;
        int r;

        r = report.lazy ? restored_get_stats(restored, &report.done) : 0;
        if (r < 0)
                return r;
        n = report_print(&report, restored->options->json);
        return n > 0 ? complain(0, "the guest's memory is not what it was: %" PRIu64 " mismatches", n) : 0;
}

int restore(const struct options *options, uint64_t start_us) {
        _cleanup_(restored_done) struct restored restored = {
                .options = options,
                .memory = MEMORY_INIT,
                .machine = MACHINE_INIT,
                .start_us = start_us,
        };
        struct region regions[LAYOUT_REGIONS];
        int r;

        r = snapshot_load_state(options->snapshot, &restored.state);
        if (r < 0)
                return r;
        r = machine_open(&restored.machine);
        if (r < 0)
                return r;
        r = options->pagebroker ? restored_get_lazy(&restored, regions) : restored_get_eager(&restored, regions);
        if (r < 0)
                return r;
        r = restored_build(&restored, regions);
        if (r < 0)
                return r;
        r = options->plug ? plug_open(&restored.plug, options->plug, restored.client, &restored.machine) : 0;
        if (r < 0)
                return r;
        restored.machine.hooks = (struct machine_hooks) {
                .multiplier = options->ascending ? 1 : ORDER_RANDOM,
                .whole = options->whole,
                .alive = restored_alive,
                .plugged = options->plug ? restored_plugged : NULL,
                .summed = restored_summed,
                .data = &restored,
        };
        r = machine_run_all(&restored.machine, restored_check, &restored);
        return r < 0 ? r : restored_report(&restored);
}
