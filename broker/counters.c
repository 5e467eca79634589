/* SPDX-License-Identifier: MIT */
#include <utlist.h>

#include "broker/broker.h"
#include "broker/connection.h"
#include "broker/memory.h"
#include "broker/pager.h"

void broker_count(struct broker *broker, struct broker_counters *ret) {
        struct connection *connection;

        *ret = (struct broker_counters) {
                .faults_linked = atomic_load_explicit(&broker->pager->faults_linked, memory_order_relaxed),
                .faults_peer = atomic_load_explicit(&broker->pager->faults_peer, memory_order_relaxed),
                .bytes_fetched = atomic_load_explicit(&broker->pager->bytes_fetched, memory_order_relaxed),
                .fill = atomic_load_explicit(&broker->pager->fill_on_now, memory_order_relaxed),
                .clients = broker->n_connections,
                .complete = pager_is_complete(broker->pager),
        };
        DL_FOREACH (broker->connections, connection)
                ret->peers += connection->n_peers;
        for (unsigned i = 0; i < broker->n_memories; i++) {
                const struct memory *memory = broker->memories[i];

                if (atomic_load_explicit(&memory->hidden, memory_order_relaxed))
                        continue;
                ret->sources_lost += atomic_load_explicit(&memory->source_lost, memory_order_relaxed);
                ret->pages_total += memory->n_pages;
                ret->pages_data += atomic_load_explicit(&memory->pages_data, memory_order_relaxed);
                ret->pages_present += atomic_load_explicit(&memory->pages_present, memory_order_relaxed);
                ret->pages_fetched += atomic_load_explicit(&memory->pages_fetched, memory_order_relaxed);
                ret->pages_poisoned += atomic_load_explicit(&memory->pages_poisoned, memory_order_relaxed);
                ret->pages_left_out += atomic_load_explicit(&memory->pages_left_out, memory_order_relaxed);
                ret->pages_in_flight += atomic_load_explicit(&memory->pages_in_flight, memory_order_relaxed);
        }
}
