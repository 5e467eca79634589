/* SPDX-License-Identifier: MIT */
#include "broker/news.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/broker.h"
#include "broker/bus/bus.h"
#include "broker/collapse.h"
#include "broker/connection.h"
#include "broker/events.h"
#include "broker/hotplug.h"
#include "broker/ledger.h"
#include "broker/memory.h"
#include "broker/session.h"
#include "broker/working-set.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker read write */

/* ---- told, on the threads that serve ---- */

static void begin(struct broker *broker) {
        (void) pthread_mutex_lock(&broker->lock);
}

static void end(struct broker *broker) {
        (void) pthread_mutex_unlock(&broker->lock);
        (void) !write(broker->eventfd, &(uint64_t) { 1 }, sizeof(uint64_t));
}

static void on_session_closed(void *data, struct session *session, const char *reason) {
        struct broker *broker = data;
        struct closed_session *closed = malloc(sizeof *closed);

        if (!closed)
                abort(); /* the session would stay for ever, with its client waiting */
        *closed = (struct closed_session) { .session = session, .reason = reason };
        begin(broker);
        LL_PREPEND(broker->closed, closed);
        end(broker);
}

static void on_completed(void *data) {
        struct broker *broker = data;

        begin(broker);
        broker->completed = true;
        end(broker);
}

static void on_memory_cleared(void *data, struct memory *memory, int result) {
        struct broker *broker = data;

        begin(broker);
        broker->cleared[memory->index] = memory;
        broker->cleared_result[memory->index] = result;
        end(broker);
}

/* On the pager's thread: two stores. */
static void on_source_done(void *data, const struct memory *memory) {
        struct broker *broker = data;

        struct ledger_plug *plug;

        if (!broker->ledger)
                return;
        plug = &broker->ledger->data->plugs[memory->index];
        plug->pages_data = atomic_load_explicit(&memory->pages_data, memory_order_relaxed);
        __atomic_store_n(&plug->source_is_done, 1, __ATOMIC_RELEASE);
}

static void on_peer_ended(void *data) {
        struct broker *broker = data;

        begin(broker);
        broker->peers_ended = true;
        end(broker);
}

static void on_replayed(void *data) {
        struct broker *broker = data;

        begin(broker);
        broker->replayed = true;
        end(broker);
}

struct pager_events news_of_pager(struct broker *broker) {
        return (struct pager_events) {
                .session_closed = on_session_closed,
                .completed = on_completed,
                .page_lost = broker_note_lost,
                .peer_ended = on_peer_ended,
                .replayed = on_replayed,
                .poisoned = bus_post_poisoned,
                .source_lost = bus_post_lost,
                .memory_cleared = on_memory_cleared,
                .source_done = on_source_done,
                .data = broker,
        };
}

/* ---- taken, on the control thread ---- */

static void log_complete(struct broker *broker) {
        uint64_t took_us = clock_now_us() - broker->ready_us;
        struct broker_counters counters;

        broker_count(broker, &counters);
        log_event(LOG_INFO, (.id = EVENT_COMPLETE),
                  "all pages are present: %llu KiB, of which %llu KiB came from the sources, %llu.%03u s after this "
                  "broker was ready; nothing is fetched any more",
                  counters.pages_total * PB_PAGE_BYTES / 1024, counters.pages_fetched * PB_PAGE_BYTES / 1024,
                  (unsigned long long) (took_us / USEC_PER_SEC), (unsigned) (took_us % USEC_PER_SEC / 1000));
}

int news_take(sd_event_source *source, int fd, uint32_t events, void *data) {
        struct broker *broker = data;
        struct closed_session *closed, *next;
        struct memory *lost, *cleared[PB_MEMORIES_MAX];
        int cleared_result[PB_MEMORIES_MAX];
        bool completed, peers_ended, replayed;

        (void) !read(fd, &(uint64_t) { 0 }, sizeof(uint64_t));
        (void) pthread_mutex_lock(&broker->lock);
        closed = PTR_TAKE(broker->closed);
        completed = broker->completed;
        broker->completed = false;
        memcpy(cleared, broker->cleared, sizeof cleared);
        memcpy(cleared_result, broker->cleared_result, sizeof cleared_result);
        memset(broker->cleared, 0, sizeof broker->cleared);
        lost = broker->lost; /* stays: it is said once */
        peers_ended = broker->peers_ended;
        broker->peers_ended = false;
        replayed = broker->replayed;
        broker->replayed = false;
        (void) pthread_mutex_unlock(&broker->lock);
        for (; closed; closed = next) {
                struct connection *connection, *next_connection;
                uint64_t id = closed->session->id;
                bool told = false;

                next = closed->next;
                DL_FOREACH_SAFE (broker->connections, connection, next_connection)
                        if (connection->session_id == id) {
                                connection->session_id = 0;
                                connection->session = NULL;
                                connection_hang_up(connection, -EPROTO, closed->reason);
                                told = true;
                        }
                if (closed->reason && !told && broker_may_log_client()) /* it hung up in the same moment */
                        log_event(LOG_WARNING, (.id = EVENT_CLIENT_EXPELLED, .client = closed->session->name),
                                  "client %s, which has gone: %s", closed->session->name, closed->reason);
                (void) session_free(closed->session);
                free(closed);
        }
        if (lost)
                broker_give_up(broker, lost, broker->lost_page);
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++)
                if (cleared[i])
                        hotplug_cleared(broker, cleared[i], cleared_result[i]);
        if (replayed)
                working_set_replayed(broker);
        if (peers_ended) {
                connections_drop_dead_peers(broker);
                hotplug_check(broker);
        }
        if (completed) {
                log_complete(broker);
                bus_completed(broker);
                collapse_start(broker);
                if (broker->counting && pthread_tryjoin_np(broker->counter, NULL) == 0)
                        broker->counting = false;
        }
        return 0;
}
