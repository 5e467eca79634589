/* SPDX-License-Identifier: MIT */
/*
 * A broker on the bus that is none: it says what is written here, whatever happens, so that a test knows every figure;
 * and it can be silent, refuse, and talk nonsense. What a real broker says is in test-broker.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <systemd/sd-bus.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/integration/ctl/support.h"

#define REALTIME_US                                         \
        ({                                                  \
                struct timespec _ts;                        \
                (void) clock_gettime(CLOCK_REALTIME, &_ts); \
                (uint64_t) _ts.tv_sec * 1000000u;           \
        })

/* Shared between brokers with FAKE_LAST. */
static struct meeting {
        atomic_uint n_asked;
        unsigned n;
} * meeting;

struct fake {
        const char *address, *service, *name;
        enum fake_mood mood;
        int calls, ready;
        unsigned n_calls;
};

static int append(sd_bus_message *m, const char *name, const char *types, ...) {
        va_list ap;
        int r;

        if (sd_bus_message_open_container(m, 'e', "sv") < 0 || sd_bus_message_append(m, "s", name) < 0 ||
            sd_bus_message_open_container(m, 'v', types) < 0)
                return -EIO;
        va_start(ap, types);
        r = sd_bus_message_appendv(m, types, ap);
        va_end(ap);
        if (r < 0)
                return r;
        (void) sd_bus_message_close_container(m);
        return sd_bus_message_close_container(m);
}

static void append_vm(sd_bus_message *m, const struct fake *fake) {
        (void) append(m, "Name", "s", fake->name);
        (void) append(m, "Version", "s", "9.8.7");
        (void) append(m, "ProcessID", "u", 4711u);
        (void) append(m, "StartedAt", "t", (uint64_t) 1700000000500000);
        (void) append(m, "State", "s", "degraded");
        (void) append(m, "PagesTotal", "t", (uint64_t) 4096);
        (void) append(m, "PagesData", "t", (uint64_t) 3000);
        (void) append(m, "PagesPresent", "t", (uint64_t) 1024);
        (void) append(m, "PagesFetched", "t", (uint64_t) 750);
        (void) append(m, "PagesPoisoned", "t", (uint64_t) 3);
        (void) append(m, "PagesInFlight", "t", (uint64_t) 2);
        (void) append(m, "BytesFetched", "t", (uint64_t) 3072000);
        (void) append(m, "SourcesLost", "u", 0u);
        (void) append(m, "Fill", "b", 1);
        (void) append(m, "FillRate", "t", (uint64_t) 1048576);
        (void) append(m, "FillProgress", "d", 0.25);
        (void) append(m, "FillSpeed", "t", (uint64_t) 524288);
        (void) append(m, "FillEndsAt", "t", REALTIME_US + 119 * (uint64_t) 1000000);
        (void) append(m, "FaultsLinked", "t", (uint64_t) 11);
        (void) append(m, "FaultsPeer", "t", 22 + (uint64_t) fake->n_calls * 100);
        (void) append(m, "Latency", "a(sttttt)", 2, "vcpu", (uint64_t) 4, (uint64_t) 20000, (uint64_t) 3000000,
                      (uint64_t) 2500000, (uint64_t) 2560000, "device", (uint64_t) 0, (uint64_t) 0, (uint64_t) 0,
                      (uint64_t) 0, (uint64_t) 0);
        (void) append(m, "LatencyBuckets", "a(sa(tt))", 2, "vcpu", 3, (uint64_t) 20000, (uint64_t) 2, (uint64_t) 60000,
                      (uint64_t) 1, (uint64_t) 3000000, (uint64_t) 1, "device", 0);
        (void) append(m, "Clients", "u", 2u);
        (void) append(m, "Peers", "u", 1u);
        (void) append(m, "ClientLimit", "u", 512u);
}

static void append_source(sd_bus_message *m, const struct fake *fake UNUSED) {
        (void) append(m, "Index", "u", 0u);
        (void) append(m, "Memory", "s", "ram0");
        (void) append(m, "Address", "s", "file:/srv/web1.memory");
        (void) append(m, "Size", "t", (uint64_t) 4096 * 4096);
        (void) append(m, "PagesTotal", "t", (uint64_t) 4096);
        (void) append(m, "PagesData", "t", (uint64_t) 3000);
        (void) append(m, "PagesPresent", "t", (uint64_t) 1024);
        (void) append(m, "PagesFetched", "t", (uint64_t) 750);
        (void) append(m, "PagesPoisoned", "t", (uint64_t) 3);
        (void) append(m, "PagesInFlight", "t", (uint64_t) 2);
        (void) append(m, "BytesFetched", "t", (uint64_t) 3072000);
        (void) append(m, "ReadsFailed", "t", (uint64_t) 5);
        (void) append(m, "Lost", "b", 0);
}

/* Half below, half above a hole, as QEMU's q35 shows it. */
static void append_region(sd_bus_message *m, unsigned index) {
        (void) append(m, "Index", "u", index);
        (void) append(m, "Memory", "s", "ram0");
        (void) append(m, "MemoryIndex", "u", 0u);
        (void) append(m, "Address", "t", index == 0 ? (uint64_t) 0 : (uint64_t) 0x100000000);
        (void) append(m, "Size", "t", (uint64_t) 2048 * 4096);
        (void) append(m, "Offset", "t", (uint64_t) index * 2048 * 4096);
        (void) append(m, "PagesTotal", "t", (uint64_t) 2048);
        (void) append(m, "PagesPresent", "t", (uint64_t) 512);
        (void) append(m, "PagesPoisoned", "t", (uint64_t) (index == 0 ? 3 : 0));
}

static void append_region0(sd_bus_message *m, const struct fake *fake UNUSED) {
        append_region(m, 0);
}

static void append_region1(sd_bus_message *m, const struct fake *fake UNUSED) {
        append_region(m, 1);
}

static void append_vmm(sd_bus_message *m, const struct fake *fake) {
        (void) append(m, "Id", "t", (uint64_t) 7);
        /* What a terminal or a label must not take for its own. */
        (void) append(m, "Name", "s", "q\"e\\mu\033[31m");
        (void) append(m, "Role", "s", "vmm");
        (void) append(m, "ProcessID", "u", 100u);
        (void) append(m, "UserID", "u", 0u);
        (void) append(m, "Connected", "b", 1);
        (void) append(m, "Peers", "u", 1u);
        (void) append(m, "FaultsVCPU", "t", 22 + (uint64_t) fake->n_calls * 100);
        (void) append(m, "FaultsDevice", "t", (uint64_t) 0);
        (void) append(m, "Prefetches", "t", (uint64_t) 0);
        (void) append(m, "Waiting", "u", 2u);
        (void) append(m, "WaitingSince", "t", REALTIME_US - 7501 * (uint64_t) 1000000);
        (void) append(m, "WaitingMemory", "s", "ram0");
        (void) append(m, "WaitingPage", "t", (uint64_t) 1234);
}

static void append_disk(sd_bus_message *m, const struct fake *fake UNUSED) {
        (void) append(m, "Id", "t", (uint64_t) 12);
        (void) append(m, "Name", "s", "disk");
        (void) append(m, "Role", "s", "device");
        (void) append(m, "ProcessID", "u", 101u);
        (void) append(m, "UserID", "u", 1000u);
        (void) append(m, "Connected", "b", 1);
        (void) append(m, "Peers", "u", 0u);
        (void) append(m, "FaultsVCPU", "t", (uint64_t) 0);
        (void) append(m, "FaultsDevice", "t", (uint64_t) 11);
        (void) append(m, "Prefetches", "t", (uint64_t) 6);
        (void) append(m, "Waiting", "u", 0u);
        (void) append(m, "WaitingSince", "t", (uint64_t) 0);
        (void) append(m, "Requests", "u", 4u);
        (void) append(m, "RequestsLimit", "u", 64u);
        (void) append(m, "BytesInFlight", "t", (uint64_t) 65536);
        (void) append(m, "BytesInFlightLimit", "t", (uint64_t) 1048576);
        (void) append(m, "HeldBack", "t", (uint64_t) 9);
}

static const struct {
        const char *path, *interface;
        void (*append)(sd_bus_message *m, const struct fake *fake);
} objects[] = {
        { "/org/pagebroker1/client/12", "org.pagebroker1.Client", append_disk },
        { "/org/pagebroker1/client/7", "org.pagebroker1.Client", append_vmm },
        { "/org/pagebroker1/region/1", "org.pagebroker1.Region", append_region1 },
        { "/org/pagebroker1/region/0", "org.pagebroker1.Region", append_region0 },
        { "/org/pagebroker1/source/0", "org.pagebroker1.Source", append_source },
        { "/org/pagebroker1/vm", "org.pagebroker1.VM", append_vm },
};

static void answer_objects(sd_bus_message *reply, const struct fake *fake) {
        (void) sd_bus_message_open_container(reply, 'a', "{oa{sa{sv}}}");
        for (unsigned i = 0; i < ELEMENTS(objects); i++) {
                (void) sd_bus_message_open_container(reply, 'e', "oa{sa{sv}}");
                (void) sd_bus_message_append(reply, "o", objects[i].path);
                (void) sd_bus_message_open_container(reply, 'a', "{sa{sv}}");
                (void) sd_bus_message_open_container(reply, 'e', "sa{sv}");
                (void) sd_bus_message_append(reply, "s", objects[i].interface);
                (void) sd_bus_message_open_container(reply, 'a', "{sv}");
                objects[i].append(reply, fake);
                for (unsigned k = 0; k < 4; k++)
                        (void) sd_bus_message_close_container(reply);
        }
        (void) sd_bus_message_close_container(reply);
}

/* One wait of each kind: one that goes on, one that failed, one in no region. */
static void answer_stuck(sd_bus_message *reply) {
        (void) sd_bus_message_append(reply, "a(tsssttttsus)", 3, (uint64_t) 7, "qemu", "vcpu", "ram0", (uint64_t) 1234,
                                     (uint64_t) 1234 * 4096, (uint64_t) 1, (uint64_t) 65000000, "retrying", 2u,
                                     "Input/output error", (uint64_t) 12, "disk", "device", "ram0", (uint64_t) 3000,
                                     (uint64_t) 0x100000000 + 952 * 4096, (uint64_t) 1, (uint64_t) 1500, "reading", 0u,
                                     "", (uint64_t) 12, "disk", "device", "ram0", (uint64_t) 3001, UINT64_MAX,
                                     (uint64_t) 1, (uint64_t) 15, "queued", 0u, "");
        (void) sd_bus_message_append(reply, "u", 5u);
}

/* Page n: by n % 8: 0 present, 1 absent, 2 in flight, 3 poisoned, 4 present zero, 5 absent zero, 6 and 7 present. */
static unsigned kind_of(uint64_t page) {
        return page % 8 < 6 ? page % 8 : 0;
}

static void answer_map(sd_bus_message *call, sd_bus_message *reply) {
        uint32_t memory, n_bins;
        uint64_t first, n, size;

        (void) sd_bus_message_read(call, "uttu", &memory, &first, &n, &n_bins);
        size = (n + n_bins - 1) / n_bins;
        (void) sd_bus_message_append(reply, "t", size);
        (void) sd_bus_message_open_container(reply, 'a', "(tttttt)");
        for (uint64_t bin = 0; bin * size < n; bin++) {
                uint64_t kinds[6] = {};

                for (uint64_t page = bin * size; page < n && page < (bin + 1) * size; page++)
                        kinds[kind_of(first + page)]++;
                (void) sd_bus_message_append(reply, "(tttttt)", kinds[0], kinds[1], kinds[2], kinds[3], kinds[4],
                                             kinds[5]);
        }
        (void) sd_bus_message_close_container(reply);
}

static void note(struct fake *fake, const char *format, ...) PRINTF_LIKE(2, 3);

static void note(struct fake *fake, const char *format, ...) {
        va_list ap;

        if (fake->calls < 0)
                return;
        va_start(ap, format);
        (void) vdprintf(fake->calls, format, ap);
        va_end(ap);
}

static void take_change(struct fake *fake, sd_bus_message *call, sd_bus_message *reply) {
        uint64_t a = 0, b = 0;
        uint32_t memory = 0;
        int on = 0;

        if (sd_bus_message_is_method_call(call, NULL, "SetFill")) {
                (void) sd_bus_message_read(call, "bt", &on, &a);
                note(fake, "fill %d %" PRIu64 "\n", on, a);
        } else if (sd_bus_message_is_method_call(call, NULL, "DisconnectClient")) {
                (void) sd_bus_message_read(call, "t", &a);
                note(fake, "disconnect %" PRIu64 "\n", a);
        } else if (sd_bus_message_is_method_call(call, NULL, "Prefetch")) {
                (void) sd_bus_message_read(call, "utt", &memory, &a, &b);
                note(fake, "prefetch %u %" PRIu64 " %" PRIu64 "\n", memory, a, b);
        } else if (sd_bus_message_is_method_call(call, NULL, "Heal")) {
                (void) sd_bus_message_read(call, "utt", &memory, &a, &b);
                note(fake, "heal %u %" PRIu64 " %" PRIu64 "\n", memory, a, b);
                (void) sd_bus_message_append(reply, "t", (uint64_t) 3);
        }
}

#define VM "/org/pagebroker1/vm", "org.pagebroker1.VM"

/* One of each. */
static void emit_signals(sd_bus *bus) {
        (void) sd_bus_emit_signal(bus, VM, "ClientConnected", "tssuu", (uint64_t) 13, "tape", "device", 102u, 1001u);
        (void) sd_bus_emit_signal(bus, VM, "ClientDisconnected", "ts", (uint64_t) 13, "tape");
        (void) sd_bus_emit_signal(bus, VM, "PageError", "sttssu", "ram0", (uint64_t) 99, (uint64_t) 1, "file:/srv/web1",
                                  "Input/output error", 7u);
        (void) sd_bus_emit_signal(bus, VM, "SourceLost", "sss", "ram0", "file:/srv/web1", "its size has changed");
        (void) sd_bus_emit_signal(bus, VM, "Completed", NULL);
}

static int answer(sd_bus_message *call, void *data, sd_bus_error *ret_error UNUSED) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        struct fake *fake = data;
        const char *interface = sd_bus_message_get_interface(call);

        if (!interface || strcmp(interface, "org.freedesktop.DBus.Peer") == 0)
                return 0;
        if (fake->mood == FAKE_SILENT)
                return 1;
        if (fake->mood == FAKE_LAST) {
                (void) atomic_fetch_add(&meeting->n_asked, 1);
                while (atomic_load(&meeting->n_asked) < meeting->n)
                        (void) nanosleep(&(struct timespec) { .tv_nsec = 1000000 }, NULL);
        }
        if (fake->mood == FAKE_REFUSING)
                return sd_bus_reply_method_errorf(call, SD_BUS_ERROR_ACCESS_DENIED, "Not for you");
        if (sd_bus_message_new_method_return(call, &reply) < 0)
                return -ENOMEM;
        if (fake->mood == FAKE_ODD)
                (void) sd_bus_message_append(reply, "as", 2, "odd", "answer");
        else if (sd_bus_message_is_method_call(call, NULL, "GetManagedObjects")) {
                answer_objects(reply, fake);
                fake->n_calls++;
        } else if (sd_bus_message_is_method_call(call, NULL, "GetStuck"))
                answer_stuck(reply);
        else if (sd_bus_message_is_method_call(call, NULL, "GetMap"))
                answer_map(call, reply);
        else if (sd_bus_message_is_method_call(call, NULL, "Audit")) {
                if (fake->mood == FAKE_FINDINGS)
                        (void) sd_bus_message_append(reply, "a(ss)", 1, "present", "ram0: counted 7, the map has 8");
                else
                        (void) sd_bus_message_append(reply, "a(ss)", 0);
                (void) sd_bus_message_append(reply, "tt", (uint64_t) 4096, (uint64_t) 1);
        } else
                take_change(fake, call, reply);
        if (sd_bus_send(NULL, reply, NULL) < 0)
                return -EIO;
        if (fake->n_calls == 1 && sd_bus_message_is_method_call(call, NULL, "GetManagedObjects"))
                emit_signals(sd_bus_message_get_bus(call));
        return 1;
}

static int serve(void *arg) {
        struct fake *fake = arg;
        sd_bus *bus = NULL;

        CHILD_CHECK(sd_bus_new(&bus) >= 0 && sd_bus_set_address(bus, fake->address) >= 0);
        CHILD_CHECK(sd_bus_set_bus_client(bus, true) >= 0 && sd_bus_start(bus) >= 0);
        CHILD_CHECK(sd_bus_add_filter(bus, NULL, answer, fake) >= 0);
        CHILD_CHECK(sd_bus_request_name(bus, fake->service, 0) >= 0);
        CHILD_CHECK(eventfd_write(fake->ready, 1) == 0);
        for (;;) {
                int r = sd_bus_process(bus, NULL);

                CHILD_CHECK(r >= 0);
                if (r == 0)
                        CHILD_CHECK(sd_bus_wait(bus, UINT64_MAX) >= 0);
        }
}

pid_t fake_start(const struct test_bus *bus, const char *service, enum fake_mood mood, int calls) {
        struct fake fake = { .address = bus->address,
                             .service = service,
                             .name = strrchr(service, '.') + 1,
                             .mood = mood,
                             .calls = calls };
        eventfd_t value;
        pid_t pid;

        fake.ready = eventfd(0, EFD_CLOEXEC);
        cr_assert(fake.ready >= 0);
        pid = test_child_start((uid_t) -1, serve, &fake);
        cr_assert(eventfd_read(fake.ready, &value) == 0);
        (void) close(fake.ready);
        return pid;
}

void fake_meet(unsigned n) {
        meeting = mmap(NULL, sizeof *meeting, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert(meeting != MAP_FAILED);
        meeting->n = n;
}

void fake_stop(pid_t pid) {
        cr_assert(kill(pid, SIGKILL) == 0);
        cr_assert_eq(test_child_wait(pid), 128 + SIGKILL);
}
