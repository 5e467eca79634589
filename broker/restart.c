/* SPDX-License-Identifier: MIT */
#include "broker/restart.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/broker.h"
#include "broker/events.h"
#include "broker/kill-point.h"
#include "broker/ledger.h"
#include "broker/pager.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"

/* How long a predecessor may take to die: its mappings are undone first, and a core dump takes long. */
#define END_PATIENCE_US (30 * USEC_PER_SEC)
#define PATIENCE_MS 1000 /* then the log says what we wait for */
#define BARRIER_PATIENCE_US (5 * USEC_PER_SEC)

/* A lineage of brokers, and which of its lives this is. */
#define EPOCH_COUNTER_BITS 24

static uint64_t epoch_new_lineage(void) {
        uint64_t random = 0;

        (void) getrandom(&random, sizeof random, 0);
        return random << EPOCH_COUNTER_BITS | 1;
}

bool restart_carries_on(const struct broker *broker, uint64_t epoch) {
        return epoch >> EPOCH_COUNTER_BITS == broker->epoch >> EPOCH_COUNTER_BITS && epoch <= broker->epoch;
}

/* ---- the predecessor ---- */

/*
 * Whoever held the pidfd's process may still write guest memory and map. It fires after the last of its threads is gone:
 * no read of theirs is on its way into guest memory then.
 */
static int wait_for_one(int pidfd, uint64_t until_us) {
        struct pollfd pollfd = { .fd = pidfd, .events = POLLIN };
        int r = poll(&pollfd, 1, PATIENCE_MS);

        if (r == 0)
                log_notice("waiting for the broker before this one to end");
        while (r == 0 || (r < 0 && errno == EINTR)) {
                uint64_t now_us = clock_now_us();

                if (now_us >= until_us)
                        return -EBUSY;
                r = poll(&pollfd, 1, (int) ((until_us - now_us) / USEC_PER_MSEC + 1));
        }
        return r < 0 ? -errno : 0;
}

static int wait_for_end(struct broker *broker) {
        uint64_t until_us = clock_now_us() + END_PATIENCE_US;
        int fd;

        while ((fd = store_take_old(&broker->store, "pb-broker-")) >= 0) {
                int r = wait_for_one(fd, until_us);

                (void) fd_close(fd);
                if (r < 0) {
                        log_error("the broker before this one has not ended; two of them would destroy the guest's memory");
                        return r;
                }
        }
        return 0;
}

static int compare_memory(const struct broker *broker, unsigned i) {
        const struct ledger_memory *was = &broker->ledger->data->memories[i];
        const struct option_memory *option = &broker->options->memories[i];
        const struct memory_plan *plan = &broker->plans[i];

        if (strcmp(was->name, option->name) != 0 || was->size != plan->size || was->backing_size != plan->backing_size ||
            was->source_offset != option->source_offset) {
                log_error("memory %s: the broker before this one had %s of %" PRIu64 " bytes here; the running VM's memory "
                          "cannot change its name, size, page size or place in the source",
                          option->name, was->name, was->size);
                return -EINVAL;
        }
        if (!(broker->ledger->data->pluggable & 1u << i) != option->plugged) {
                log_error("memory %s: it was declared %s for the broker before this one; plugged= cannot change while the VM runs",
                          option->name, option->plugged ? "with plugged=off" : "without plugged=off");
                return -EINVAL;
        }
        if (memcmp(was->identity, plan->source->identity, sizeof was->identity) != 0) {
                log_error("memory %s: source %s is not what it was for the broker before this one (another file, or its size "
                          "or modification time has changed); what is still absent cannot be had from it",
                          option->name, plan->source->name);
                return -ESTALE;
        }
        return 0;
}

static int compare(const struct broker *broker) {
        const struct ledger_data *was = broker->ledger->data;
        bool same = was->n_memories == broker->n_memories && was->n_regions == broker->n_regions &&
                    strcmp(was->vm, broker->options->name) == 0;
        int r = 0;

        for (unsigned i = 0; i < broker->n_regions && same; i++) {
                const struct region *region = &broker->regions[i];

                same = was->regions[i].gpa == region->gpa && was->regions[i].size == region->size &&
                       was->regions[i].offset == region->offset && was->regions[i].memory == region->memory;
        }
        if (!same) {
                log_error("the broker before this one had another name, other memories or other regions; they cannot change "
                          "while the VM runs");
                return -EINVAL;
        }
        for (unsigned i = 0; i < broker->n_memories && r == 0; i++)
                r = compare_memory(broker, i);
        return r;
}

/* Its death lets go of it, but systemd may pass us no pidfd of a broker that died before it could send one. */
static int wait_for_lock(struct ledger *ledger) {
        uint64_t until_us = clock_now_us() + END_PATIENCE_US;
        int r;

        while ((r = ledger_lock(ledger)) == -EWOULDBLOCK && clock_now_us() < until_us)
                (void) poll(NULL, 0, 10);
        if (r < 0)
                log_error("cannot lock the ledger: %s", r == -EWOULDBLOCK ? "another broker has it" : strerror(-r));
        return r;
}

/* 1: there is a predecessor whose work is carried on. */
static int take_ledger(struct broker *broker) {
        int fd = store_take(&broker->store, "pb-ledger"), r;

        if (fd < 0)
                return 0;
        r = ledger_open(&broker->ledger, fd);
        if (r < 0) {
                log_error("the ledger in the supervisor's store cannot be read%s",
                          r == -EPROTO ? ": this version does not know it" : "");
                return r;
        }
        if (!__atomic_load_n(&broker->ledger->data->committed, __ATOMIC_ACQUIRE)) {
                /* It died before it served anybody. */
                broker->ledger = ledger_free(broker->ledger);
                store_drop(&broker->store, "pb-ledger", 1);
                return 0;
        }
        r = wait_for_lock(broker->ledger);
        if (r == 0)
                r = compare(broker);
        return r < 0 ? r : 1;
}

/* The bits of memory i, in the life that `name` names: "pb-map-I-EPOCH". */
static bool parse_map_name(const char *name, unsigned *ret_index, uint64_t *ret_epoch) {
        return sscanf(name, "pb-map-%u-%" SCNx64, ret_index, ret_epoch) == 2;
}

/* A predecessor may have died after it had stored a map of its own epoch and before the ledger said so. */
static uint64_t last_epoch(const struct broker *broker) {
        uint64_t epoch = broker->ledger->data->epoch, other;
        unsigned index;

        for (unsigned i = 0; i < broker->store.n_items; i++)
                if (parse_map_name(broker->store.items[i].name, &index, &other) &&
                    other >> EPOCH_COUNTER_BITS == epoch >> EPOCH_COUNTER_BITS && other > epoch)
                        epoch = other;
        return epoch;
}

static int begin_anew(struct broker *broker) {
        struct ledger_data *data;
        int r;

        store_drop_rest(&broker->store);
        broker->epoch = epoch_new_lineage();
        r = ledger_new(&broker->ledger, broker->options->name);
        if (r < 0) {
                log_error("cannot make the ledger: %s", strerror(-r));
                return r;
        }
        data = broker->ledger->data;
        data->epoch = broker->epoch;
        data->n_memories = broker->n_memories;
        data->n_regions = broker->n_regions;
        for (unsigned i = 0; i < broker->n_memories; i++) {
                struct ledger_memory *memory = &data->memories[i];

                memory->size = broker->plans[i].size;
                memory->backing_size = broker->plans[i].backing_size;
                memory->source_offset = broker->options->memories[i].source_offset;
                memcpy(memory->name, broker->options->memories[i].name, sizeof memory->name);
                memcpy(memory->identity, broker->plans[i].source->identity, sizeof memory->identity);
                if (!broker->options->memories[i].plugged)
                        data->pluggable |= 1u << i;
        }
        for (unsigned i = 0; i < broker->n_regions; i++)
                data->regions[i] = (struct ledger_region) {
                        .gpa = broker->regions[i].gpa,
                        .size = broker->regions[i].size,
                        .offset = broker->regions[i].offset,
                        .memory = broker->regions[i].memory,
                };
        return 0;
}

int restart_take_source(struct broker *broker, unsigned i) {
        const struct option_memory *option = &broker->options->memories[i];
        int fd = store_find(&broker->store, "pb-ledger"), r = 0;
        struct ledger *ledger = NULL;
        const struct ledger_memory *was;

        /* What is wrong with it is for take_ledger() to say. */
        fd = fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0 || ledger_open(&ledger, fd) < 0)
                return 0;
        was = &ledger->data->memories[i];
        if (__atomic_load_n(&ledger->data->committed, __ATOMIC_ACQUIRE) && i < ledger->data->n_memories &&
            __atomic_load_n(&ledger->data->plugs[i].source_is_done, __ATOMIC_ACQUIRE) &&
            strncmp(was->name, option->name, sizeof was->name) == 0) {
                broker->plans[i].size = option->size ?: was->size;
                r = source_new_done(&broker->plans[i].source, option->source ?: "", was->source_offset + was->size,
                                    was->identity, ledger->data->plugs[i].pages_data);
                if (r == 0)
                        log_info("memory %s is complete: its source is not needed any more", option->name);
                r = r < 0 ? r : 1;
        }
        (void) ledger_free(ledger);
        return r;
}

int restart_begin(struct broker *broker) {
        int r;

        if (broker->store.size == 0) {
                log_notice("the supervisor keeps no descriptors ($NOTIFY_SOCKET, $FDSTORE): if this broker ends, the VM ends "
                           "too");
                broker->epoch = epoch_new_lineage();
                return 0;
        }
        r = wait_for_end(broker);
        if (r == 0)
                r = take_ledger(broker);
        if (r < 0)
                return r;
        broker->resumed = r > 0;
        KILL_POINT("takeover-waited");
        if (!broker->resumed)
                return begin_anew(broker);
        broker->epoch = last_epoch(broker) + 1;
        broker->last_session_id = broker->ledger->data->last_session_id;
        broker->last_peer_id = broker->ledger->data->last_peer_id;
        log_event(LOG_NOTICE, (.id = EVENT_CARRIES_ON),
                  "carrying on where the broker before this one ended; epoch %" PRIx64, broker->epoch);
        return 0;
}

/* ---- memories ---- */

int restart_take_memory(struct broker *broker, unsigned index) {
        char name[STORE_NAME_SIZE];

        (void) snprintf(name, sizeof name, "pb-memory-%u", index);
        return store_take(&broker->store, name);
}

/* A bit is true for ever: the union is right whatever moment each of them died at. */
int restart_take_bits(struct broker *broker, unsigned index) {
        char prefix[STORE_NAME_SIZE];
        unsigned n = 0;
        int fd, r;

        (void) snprintf(prefix, sizeof prefix, "pb-map-%u-", index);
        while ((fd = store_take_old(&broker->store, prefix)) >= 0) {
                r = memory_take_bits(broker->memories[index], fd);
                (void) fd_close(fd);
                if (r < 0) {
                        log_error("memory %s: cannot read the presence map of the broker before this one: %s",
                                  broker->memories[index]->name, strerror(-r));
                        return r;
                }
                n++;
        }
        if (n == 0) {
                log_error("memory %s: its presence map is not in the supervisor's store", broker->memories[index]->name);
                return -ENOENT;
        }
        return 0;
}

/* ---- the store ---- */

static int keep(struct broker *broker, const char *name, int fd) {
        int r = store_keep(&broker->store, name, &fd, 1);

        if (r < 0)
                log_error("the supervisor's store does not take %s: %s%s", name, strerror(-r),
                          r == -ENOSPC ? " ($FDSTORE is too small)" : "");
        return r;
}

/* What is new in every life. */
static int keep_epoch(struct broker *broker) {
        _cleanup_close_ int pidfd = (int) syscall(SYS_pidfd_open, getpid(), 0);
        char name[STORE_NAME_SIZE];
        int r = pidfd < 0 ? -errno : 0;

        (void) snprintf(name, sizeof name, "pb-broker-%" PRIx64, broker->epoch);
        if (r == 0)
                r = keep(broker, name, pidfd);
        for (unsigned i = 0; i < broker->n_memories && r == 0; i++) {
                (void) snprintf(name, sizeof name, "pb-map-%u-%" PRIx64, i, broker->epoch);
                r = keep(broker, name, broker->memories[i]->map_fd);
        }
        return r;
}

static int keep_for_ever(struct broker *broker) {
        char name[STORE_NAME_SIZE];
        int r = keep(broker, "pb-ledger", broker->ledger->fd);

        for (unsigned i = 0; i < broker->n_memories && r == 0; i++) {
                (void) snprintf(name, sizeof name, "pb-memory-%u", i);
                r = keep(broker, name, broker->memories[i]->fd);
        }
        return r;
}

int restart_commit(struct broker *broker) {
        int r = 0;

        if (broker->store.size == 0)
                return 0;
        if (!broker->resumed)
                r = keep_for_ever(broker);
        if (r == 0)
                r = keep_epoch(broker);
        if (r == 0 && broker->own_listener >= 0 && !broker->listener_kept)
                r = keep(broker, "pb-listen", broker->own_listener);
        KILL_POINT("takeover-kept");
        if (r == 0) {
                r = store_barrier(&broker->store, BARRIER_PATIENCE_US);
                if (r < 0)
                        log_error("the supervisor does not answer ($NOTIFY_SOCKET, BARRIER=1): %s", strerror(-r));
        }
        if (r < 0)
                return r;
        __atomic_store_n(&broker->ledger->data->epoch, broker->epoch, __ATOMIC_RELEASE);
        __atomic_store_n(&broker->ledger->data->committed, 1, __ATOMIC_RELEASE);
        KILL_POINT("takeover-entered");
        store_drop_old(&broker->store);
        KILL_POINT("takeover-dropped");
        return 0;
}
