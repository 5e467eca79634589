/* SPDX-License-Identifier: MIT */
/* What the tests of the bus share. */
#pragma once

#include "tests/integration/basic/support.h"
#include "tests/lib/bus.h"

#define SERVICE "org.pagebroker1.test"
#define VM "/org/pagebroker1/vm"
#define VM_INTERFACE "org.pagebroker1.VM"
#define SOURCE0 "/org/pagebroker1/source/0"
#define SOURCE_INTERFACE "org.pagebroker1.Source"
#define REGION_INTERFACE "org.pagebroker1.Region"
#define CLIENT_INTERFACE "org.pagebroker1.Client"

/* A bus, a broker on it, and a connection of ours, once the broker has its name. */
struct scene {
        struct test_bus bus;
        struct test_broker broker;
        sd_bus *us;
};

/* The arguments are the broker's, beside --bus. */
#define SCENE_START(scene, ...) scene_start((scene), (const char *const[]) { __VA_ARGS__, NULL })
void scene_start(struct scene *ret, const char *const args[]);
void scene_stop(struct scene *scene);

/* Fail the test if the property is not there. */
uint64_t get_number(sd_bus *us, const char *path, const char *interface, const char *property); /* t, u or b */
double get_double(sd_bus *us, const char *path, const char *interface, const char *property);
char *get_string(sd_bus *us, const char *path, const char *interface, const char *property); /* to be freed */
bool string_is(sd_bus *us, const char *path, const char *interface, const char *property, const char *value);

#define VM_NUMBER(us, property) get_number((us), VM, VM_INTERFACE, (property))

/* A method of the VM. The reply is the caller's to unref; NULL is never returned. */
sd_bus_message *call(sd_bus *us, const char *method, const char *types, ...);
/* A method that must fail: true if the error has this name. */
bool call_fails(sd_bus *us, const char *error, const char *method, const char *types, ...);

/* The only Client object's path, waiting for it; "" and false if there are several or none. */
bool find_client(sd_bus *us, char ret[64]);
unsigned count_clients(sd_bus *us);

/* What GetStuck says of one who waits. */
struct stuck_row {
        uint64_t client, page, gpa, since_us, waited_us;
        char name[32], class[16], memory[32], why[16], reason[128];
        uint32_t tries;
};
unsigned get_stuck(sd_bus *us, struct stuck_row *ret, unsigned max, uint32_t *ret_total);

/* The figures of a class in a Latency property. */
struct latency_row {
        uint64_t count, p50_ns, p99_ns, max_ns, sum_ns;
};
struct latency_row get_latency(sd_bus *us, const char *path, const char *interface, const char *class);

/* Signals of the VM with this name, counted from now on; the last one is kept. */
struct listener {
        sd_bus *us;
        sd_bus_slot *slot;
        unsigned n;
        sd_bus_message *last;
};
void listen_for(struct listener *ret, sd_bus *us, const char *member);
/* Handles what has arrived; true once there are at least `n`. */
bool heard(struct listener *listener, unsigned n);
void listen_done(struct listener *listener);

/* Is it this process that the name belongs to? After a restart the bus may not have seen yet that the old one has gone. */
bool is_process(sd_bus *us, pid_t pid);
