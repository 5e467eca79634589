/* SPDX-License-Identifier: MIT */
/* What the files of the bus share. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <systemd/sd-bus.h>

#include "broker/broker.h"
#include "broker/bus/bus.h"
#include "common/log.h"

#define BUS_PREFIX "org.pagebroker1"
#define BUS_ROOT "/org/pagebroker1"
#define BUS_VM "/org/pagebroker1/vm"
#define BUS_INTERFACE_VM "org.pagebroker1.VM"

#define BUS_ERROR_NO_SUCH_CLIENT "org.pagebroker1.Error.NoSuchClient"
#define BUS_ERROR_NO_SUCH_MEMORY "org.pagebroker1.Error.NoSuchMemory"
#define BUS_ERROR_BAD_RANGE "org.pagebroker1.Error.BadRange"
#define BUS_ERROR_COMPLETE "org.pagebroker1.Error.Complete"
#define BUS_ERROR_SOURCE "org.pagebroker1.Error.Source"
#define BUS_ERROR_RECORDING "org.pagebroker1.Error.Recording"
#define BUS_ERROR_NO_SUCH_RECORDING "org.pagebroker1.Error.NoSuchRecording"
#define BUS_ERROR_BAD_WORKING_SET "org.pagebroker1.Error.BadWorkingSet"
#define BUS_ERROR_OTHER_WORKING_SET "org.pagebroker1.Error.OtherWorkingSet"

/* FillSpeed is an average over so many seconds. */
#define BUS_SAMPLES 10u
#define BUS_POISONED_MAX 32u

/* What an object's properties are read from: filled in when it is looked up, by name and offset (sd-bus reads ints for
 * booleans, pointers for strings). */
struct vm_view {
        struct broker *broker;
        const char *name, *version, *state;
        uint32_t pid, sources_lost, clients, peers, client_limit;
        uint64_t epoch, started_us, completed_us;
        uint64_t pages_total, pages_data, pages_present, pages_fetched, pages_poisoned, pages_in_flight, pages_left_out;
        uint64_t bytes_fetched, fill_rate, fill_speed, fill_ends_us, faults_linked, faults_peer;
        uint64_t recording_since_us, recorded_pages, recorded_entries, replay_pages, replayed_pages;
        double fill_progress;
        int fill, recording, replaying;
};

struct region_view {
        uint32_t index, memory_index;
        const char *memory;
        uint64_t address, size, offset, backing_size, pages_total, pages_present, pages_poisoned;
};

struct source_view {
        uint32_t index;
        const char *memory, *address;
        uint64_t offset, size, backing_size;
        uint64_t pages_total, pages_data, pages_present, pages_fetched, pages_poisoned, pages_in_flight, pages_left_out;
        uint64_t bytes_fetched, reads_failed;
        int lost;
};

struct client_view {
        const struct connection *connection;
        const char *name, *role, *waiting_memory;
        uint32_t pid, uid, peers, waiting;
        uint32_t requests, requests_limit, peers_limit;
        uint64_t bytes, bytes_limit, held_back;
        uint64_t id, connected_us, faults_vcpu, faults_device, prefetches, waiting_since_us, waiting_page;
        int connected;
};

/* Pages that were poisoned, on their way to a signal. */
struct poisoned {
        uint32_t memory, left_out;
        uint64_t page, n_pages;
        int error;
};

struct region_count {
        uint32_t id;
        uint64_t at_us, present, poisoned;
};

struct bus {
        struct broker *broker;
        sd_bus *bus; /* NULL: on none */
        char *name;
        sd_event_source *io, *time; /* the connection's */
        sd_event_source *tick, *news_source;
        uint64_t started_us; /* CLOCK_REALTIME */
        uint64_t completed_us;
        uint64_t sample_us[BUS_SAMPLES], sample_bytes[BUS_SAMPLES];
        unsigned n_samples;
        struct log_limit arrivals;
        bool unannounced;    /* some client has come too fast */
        const char *state;   /* as last told */
        bool fill;
        uint64_t fill_rate;

        union {
                struct vm_view vm;
                struct region_view region;
                struct source_view source;
                struct client_view client;
        } view; /* of the object that is being read */
        struct region_count regions[PB_REGIONS_MAX];

        pthread_mutex_t lock; /* a leaf; what other threads hand over */
        struct poisoned poisoned[BUS_POISONED_MAX];
        unsigned n_poisoned;
        uint32_t poisoned_left_out;
        bool lost[PB_MEMORIES_MAX];
        int eventfd;
};

/* bus.c */
bool bus_is_up(const struct bus *bus);
void bus_tick_soon(struct bus *bus);
uint64_t bus_realtime_us(void);
/* CLOCK_MONOTONIC nanoseconds as a time of day. */
uint64_t bus_time_of_day(uint64_t monotonic_ns);

/* bus-vm.c, bus-objects.c: what is shown */
int bus_add_vm(struct bus *bus);
int bus_add_objects(struct bus *bus);
void bus_sample(struct bus *bus);
const char *bus_vm_state(const struct broker *broker);
struct latency;
int bus_append_latency(sd_bus_message *reply, const struct latency latency[TALLY_CLASSES]);
struct connection;
bool bus_shows(const struct connection *connection);
/* Is there an object for it? One that is not plugged in is shown to nobody. */
bool bus_shows_memory(const struct memory *memory);
void bus_source_path(const struct memory *memory, char ret[64]);
void bus_region_path(const struct region *region, char ret[64]);
/* What methods take by its index; NULL: there is none. */
struct memory *bus_get_memory(const struct broker *broker, uint32_t index);
void bus_client_path(const struct connection *connection, char ret[64]);

/* bus-read.c, bus-act.c: methods of the VM */
int bus_get_stuck(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_get_map(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_audit(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_prefetch(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_prefetch_guest(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_set_fill(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_heal(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_disconnect_client(sd_bus_message *message, void *data, sd_bus_error *error);

/* bus-working-set.c: methods of the VM */
int bus_start_recording(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_stop_recording(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_read_recording(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_drop_recording(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_send_working_set(sd_bus_message *message, void *data, sd_bus_error *error);
int bus_replay_working_set(sd_bus_message *message, void *data, sd_bus_error *error);

/* bus-news.c: signals */
int bus_start_news(struct bus *bus);
void bus_announce_late(struct bus *bus);
void bus_tell_changes(struct bus *bus);
