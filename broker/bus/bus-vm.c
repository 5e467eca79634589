/* SPDX-License-Identifier: MIT */
/* /org/pagebroker1/vm */
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/bus/bus-internal.h"
#include "broker/connection.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/recorder.h"
#include "common/clock.h"
#include "common/macro.h"

const char *bus_vm_state(const struct broker *broker) {
        bool degraded = false;

        if (pager_is_complete(broker->pager))
                return "complete";
        for (unsigned i = 0; i < broker->n_memories; i++)
                degraded = degraded || (bus_shows_memory(broker->memories[i]) && (atomic_load_explicit(&broker->memories[i]->source_lost, memory_order_relaxed) ||
                           atomic_load_explicit(&broker->memories[i]->pages_poisoned, memory_order_relaxed) > 0 ||
                           atomic_load_explicit(&broker->memories[i]->pages_left_out, memory_order_relaxed) > 0));
        return degraded ? "degraded" : "restoring";
}

/* ---- how fast ---- */

static uint64_t bytes_fetched(const struct bus *bus) {
        return atomic_load_explicit(&bus->broker->pager->bytes_fetched, memory_order_relaxed);
}

void bus_sample(struct bus *bus) {
        unsigned at = bus->n_samples++ % BUS_SAMPLES;

        bus->sample_us[at] = clock_now_us();
        bus->sample_bytes[at] = bytes_fetched(bus);
}

static uint64_t fill_speed(const struct bus *bus) {
        unsigned oldest = bus->n_samples > BUS_SAMPLES ? bus->n_samples % BUS_SAMPLES : 0;
        uint64_t now_us = clock_now_us();

        if (bus->n_samples == 0 || now_us <= bus->sample_us[oldest])
                return 0;
        return (uint64_t) ((double) (bytes_fetched(bus) - bus->sample_bytes[oldest]) * (double) USEC_PER_SEC /
                           (double) (now_us - bus->sample_us[oldest]));
}

static double fill_progress(const struct broker_counters *counters) {
        if (counters->complete)
                return 1;
        if (counters->pages_data == 0)
                return counters->pages_total > 0 ? (double) counters->pages_present / (double) counters->pages_total : 1;
        return (double) min_u64(counters->pages_fetched, counters->pages_data) / (double) counters->pages_data;
}

static uint64_t fill_ends(const struct broker_counters *counters, uint64_t speed) {
        if (counters->complete || speed == 0 || counters->pages_data <= counters->pages_fetched)
                return 0;
        return bus_realtime_us() + (uint64_t) ((double) ((counters->pages_data - counters->pages_fetched) * PB_PAGE_BYTES) /
                                               (double) speed * (double) USEC_PER_SEC);
}

/* ---- properties ---- */

static int find_vm(sd_bus *sdbus, const char *path, const char *interface, void *data, void **ret, sd_bus_error *error) {
        struct bus *bus = data;
        struct broker *broker = bus->broker;
        struct recorder_counters recorded;
        struct broker_counters counters;
        struct vm_view *view = &bus->view.vm;
        struct connection *connection;

        if (strcmp(path, BUS_VM) != 0)
                return 0;
        broker_count(broker, &counters);
        *view = (struct vm_view) {
                .broker = broker,
                .name = broker->options->name,
                .version = PAGEBROKER_VERSION,
                .state = bus_vm_state(broker),
                .pid = (uint32_t) getpid(),
                .epoch = broker->epoch,
                .started_us = bus->started_us,
                .completed_us = bus->completed_us,
                .pages_total = counters.pages_total,
                .pages_data = counters.pages_data,
                .pages_present = counters.pages_present,
                .pages_fetched = counters.pages_fetched,
                .pages_poisoned = counters.pages_poisoned,
                .pages_left_out = counters.pages_left_out,
                .pages_in_flight = counters.pages_in_flight,
                .bytes_fetched = counters.bytes_fetched,
                .sources_lost = counters.sources_lost,
                .fill = counters.fill,
                .fill_rate = pager_get_fill_rate(broker->pager),
                .fill_progress = fill_progress(&counters),
                .fill_speed = fill_speed(bus),
                .faults_linked = counters.faults_linked,
                .faults_peer = counters.faults_peer,
                .peers = counters.peers,
                .client_limit = broker->options->client_limit,
                .replaying = pager_is_replaying(broker->pager),
                .replay_pages = atomic_load_explicit(&broker->pager->replay_total, memory_order_relaxed),
                .replayed_pages = atomic_load_explicit(&broker->pager->replay_done, memory_order_relaxed),
        };
        recorder_count(broker->pager->recorder, &recorded);
        view->recording = recorded.on;
        view->recording_since_us = recorded.started_us;
        view->recorded_pages = recorded.pages;
        view->recorded_entries = recorded.entries;
        view->fill_ends_us = fill_ends(&counters, view->fill_speed);
        DL_FOREACH (broker->connections, connection)
                view->clients += connection->ready && connection->fd >= 0;
        *ret = view;
        return 1;
}

static const char *const class_names[] = {
        [CLASS_VCPU] = "vcpu",
        [CLASS_DEVICE] = "device",
        [CLASS_PREFETCH] = "prefetch",
};
static_assert(ELEMENTS(class_names) == TALLY_CLASSES, "a name for each class");

int bus_append_latency(sd_bus_message *reply, const struct latency latency[TALLY_CLASSES]) {
        int r = sd_bus_message_open_container(reply, 'a', "(sttttt)");

        for (unsigned class = 0; class < TALLY_CLASSES && r >= 0; class++) {
                struct latency_figures figures;

                latency_get_figures(&latency[class], &figures);
                r = sd_bus_message_append(reply, "(sttttt)", class_names[class], figures.count, figures.p50_ns, figures.p99_ns,
                                          figures.max_ns, figures.sum_ns);
        }
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

/* Of all clients, those who have gone included. */
static void sum_latency(const struct broker *broker, struct latency ret[TALLY_CLASSES]) {
        const struct tally *tally;

        memset(ret, 0, sizeof(struct latency) * TALLY_CLASSES);
        for (unsigned class = 0; class < TALLY_CLASSES; class++) {
                latency_merge(&ret[class], &broker->departed[class]);
                LL_FOREACH (broker->tallies, tally)
                        latency_merge(&ret[class], &tally->latency[class]);
        }
}

static int get_latency(sd_bus *sdbus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        struct latency latency[TALLY_CLASSES];

        sum_latency(view->broker, latency);
        return bus_append_latency(reply, latency);
}

static int append_buckets(sd_bus_message *reply, const char *class, const struct latency *latency) {
        int r = sd_bus_message_open_container(reply, 'r', "sa(tt)");

        if (r >= 0)
                r = sd_bus_message_append(reply, "s", class);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(tt)");
        for (unsigned i = 0; i < LATENCY_BUCKETS && r >= 0; i++) {
                uint64_t n = atomic_load_explicit(&latency->buckets[i], memory_order_relaxed);

                if (n > 0)
                        r = sd_bus_message_append(reply, "(tt)", latency_bound_ns(i), n);
        }
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int get_buckets(sd_bus *sdbus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *data, sd_bus_error *error) {
        const struct vm_view *view = data;
        struct latency latency[TALLY_CLASSES];
        int r = sd_bus_message_open_container(reply, 'a', "(sa(tt))");

        sum_latency(view->broker, latency);
        for (unsigned class = 0; class < TALLY_CLASSES && r >= 0; class++)
                r = append_buckets(reply, class_names[class], &latency[class]);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

#define CONST SD_BUS_VTABLE_PROPERTY_CONST
#define CHANGE SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
#define FREE SD_BUS_VTABLE_UNPRIVILEGED
#define PROPERTY(name, signature, field, flags) \
        SD_BUS_PROPERTY((name), (signature), NULL, offsetof(struct vm_view, field), (flags))

static const sd_bus_vtable vm_vtable[] = {
        SD_BUS_VTABLE_START(0),
        PROPERTY("Name", "s", name, CONST),
        PROPERTY("Version", "s", version, CONST),
        PROPERTY("ProcessID", "u", pid, CONST),
        PROPERTY("Epoch", "t", epoch, CONST),
        PROPERTY("StartedAt", "t", started_us, CONST),
        PROPERTY("State", "s", state, CHANGE),
        PROPERTY("CompletedAt", "t", completed_us, CHANGE),
        PROPERTY("PagesTotal", "t", pages_total, 0),
        PROPERTY("PagesData", "t", pages_data, 0),
        PROPERTY("PagesPresent", "t", pages_present, 0),
        PROPERTY("PagesFetched", "t", pages_fetched, 0),
        PROPERTY("PagesPoisoned", "t", pages_poisoned, 0),
        PROPERTY("PagesLeftOut", "t", pages_left_out, 0),
        PROPERTY("PagesInFlight", "t", pages_in_flight, 0),
        PROPERTY("BytesFetched", "t", bytes_fetched, 0),
        PROPERTY("SourcesLost", "u", sources_lost, 0),
        PROPERTY("Fill", "b", fill, CHANGE),
        PROPERTY("FillRate", "t", fill_rate, CHANGE),
        PROPERTY("FillProgress", "d", fill_progress, 0),
        PROPERTY("FillSpeed", "t", fill_speed, 0),
        PROPERTY("FillEndsAt", "t", fill_ends_us, 0),
        PROPERTY("FaultsLinked", "t", faults_linked, 0),
        PROPERTY("FaultsPeer", "t", faults_peer, 0),
        SD_BUS_PROPERTY("Latency", "a(sttttt)", get_latency, 0, 0),
        SD_BUS_PROPERTY("LatencyBuckets", "a(sa(tt))", get_buckets, 0, 0),
        PROPERTY("Clients", "u", clients, 0),
        PROPERTY("Peers", "u", peers, 0),
        PROPERTY("ClientLimit", "u", client_limit, CONST),
        PROPERTY("Recording", "b", recording, 0),
        PROPERTY("RecordingSince", "t", recording_since_us, 0),
        PROPERTY("RecordedPages", "t", recorded_pages, 0),
        PROPERTY("RecordedEntries", "t", recorded_entries, 0),
        PROPERTY("Replaying", "b", replaying, 0),
        PROPERTY("ReplayPages", "t", replay_pages, 0),
        PROPERTY("ReplayedPages", "t", replayed_pages, 0),

        SD_BUS_METHOD_WITH_ARGS("GetStuck", SD_BUS_ARGS("t", min_wait_us, "u", limit),
                                SD_BUS_RESULT("a(tsssttttsus)", waits, "u", total), bus_get_stuck, FREE),
        SD_BUS_METHOD_WITH_ARGS("GetMap", SD_BUS_ARGS("u", memory, "t", first_page, "t", n_pages, "u", n_bins),
                                SD_BUS_RESULT("t", pages_per_bin, "a(tttttt)", bins), bus_get_map, FREE),
        /* The others are for root and our own user: sd-bus asks the bus who calls. */
        SD_BUS_METHOD_WITH_ARGS("Audit", SD_BUS_NO_ARGS,
                                SD_BUS_RESULT("a(ss)", findings, "t", pages, "t", slices), bus_audit, 0),
        SD_BUS_METHOD_WITH_ARGS("Prefetch", SD_BUS_ARGS("u", memory, "t", first_page, "t", n_pages), SD_BUS_NO_RESULT,
                                bus_prefetch, 0),
        SD_BUS_METHOD_WITH_ARGS("PrefetchGuest", SD_BUS_ARGS("t", address, "t", size), SD_BUS_NO_RESULT,
                                bus_prefetch_guest, 0),
        SD_BUS_METHOD_WITH_ARGS("SetFill", SD_BUS_ARGS("b", on, "t", rate), SD_BUS_NO_RESULT, bus_set_fill, 0),
        SD_BUS_METHOD_WITH_ARGS("Heal", SD_BUS_ARGS("u", memory, "t", first_page, "t", n_pages),
                                SD_BUS_RESULT("t", healed), bus_heal, 0),
        SD_BUS_METHOD_WITH_ARGS("DisconnectClient", SD_BUS_ARGS("t", client), SD_BUS_NO_RESULT, bus_disconnect_client, 0),
        SD_BUS_METHOD_WITH_ARGS("StartRecording", SD_BUS_NO_ARGS, SD_BUS_RESULT("t", recording, "t", pages_present, "b", fill),
                                bus_start_recording, 0),
        SD_BUS_METHOD_WITH_ARGS("StopRecording", SD_BUS_NO_ARGS,
                                SD_BUS_RESULT("t", recording, "t", size, "t", pages, "t", entries), bus_stop_recording, 0),
        SD_BUS_METHOD_WITH_ARGS("ReadRecording", SD_BUS_ARGS("t", recording, "t", offset, "u", n_bytes),
                                SD_BUS_RESULT("ay", data), bus_read_recording, 0),
        SD_BUS_METHOD_WITH_ARGS("DropRecording", SD_BUS_ARGS("t", recording), SD_BUS_NO_RESULT, bus_drop_recording, 0),
        SD_BUS_METHOD_WITH_ARGS("SendWorkingSet", SD_BUS_ARGS("t", size, "t", offset, "ay", data), SD_BUS_NO_RESULT,
                                bus_send_working_set, 0),
        SD_BUS_METHOD_WITH_ARGS("ReplayWorkingSet", SD_BUS_ARGS("b", force),
                                SD_BUS_RESULT("t", pages, "t", runs, "s", notice), bus_replay_working_set, 0),

        SD_BUS_SIGNAL("Completed", "", 0),
        SD_BUS_SIGNAL_WITH_ARGS("PageError",
                                SD_BUS_ARGS("s", memory, "t", page, "t", n_pages, "s", source, "s", reason, "u", left_out), 0),
        SD_BUS_SIGNAL_WITH_ARGS("SourceLost", SD_BUS_ARGS("s", memory, "s", source, "s", reason), 0),
        SD_BUS_SIGNAL_WITH_ARGS("MemoryAdded", SD_BUS_ARGS("s", memory, "u", index, "t", size), 0),
        SD_BUS_SIGNAL_WITH_ARGS("MemoryRemoved", SD_BUS_ARGS("s", memory, "u", index), 0),
        SD_BUS_SIGNAL_WITH_ARGS("ClientConnected",
                                SD_BUS_ARGS("t", client, "s", name, "s", role, "u", pid, "u", uid), 0),
        SD_BUS_SIGNAL_WITH_ARGS("ClientDisconnected", SD_BUS_ARGS("t", client, "s", name), 0),
        SD_BUS_VTABLE_END,
};

int bus_add_vm(struct bus *bus) {
        return sd_bus_add_fallback_vtable(bus->bus, NULL, BUS_VM, BUS_INTERFACE_VM, vm_vtable, find_vm, bus);
}
