/* SPDX-License-Identifier: MIT */
/* Calls on the control socket, after the handshake. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "broker/account.h"
#include "broker/broker.h"
#include "broker/closer.h"
#include "broker/connection.h"
#include "broker/hotplug.h"
#include "broker/events.h"
#include "broker/ledger.h"
#include "broker/pager.h"
#include "broker/peer.h"
#include "broker/restart.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/macro.h"

/* #syscalls:broker fcntl:cmd=F_DUPFD_CLOEXEC */

union call {
        struct pb_message_header header;
        struct pb_message_attach_peer attach;
        struct pb_message_map_peer map;
        struct pb_message_detach_peer detach;
        struct pb_message_set_fill set_fill;
        struct pb_message_explain explain;
        struct pb_message_heal heal;
        struct pb_message_add_memory add_memory;
        struct pb_message_of_memory of_memory;
        struct pb_message_unmap_peer unmap;
};

static int answer(struct connection *connection, const union call *call, int error, uint64_t value, const char *text) {
        (void) connection_send_result(connection, PB_MSG_RESULT, call->header.serial, error, value, text);
        return 0;
}

/* A peer's thread answers by itself: its answer can take as long as the peer's mm lock. */
static int reply_for(const struct connection *connection, const union call *call, struct peer_reply *ret) {
        int fd = fcntl(connection->fd, F_DUPFD_CLOEXEC, 3);

        if (fd < 0)
                return -errno;
        *ret = (struct peer_reply) { .socket = fd, .serial = call->header.serial };
        return 0;
}

/* NULL: it may. Places are shared by users, not by connections: a userfaultfd outlives its connection. */
static const char *why_no_place(const struct connection *connection, bool is_vmm) {
        unsigned devices = account_total(ACCOUNT_PEERS_DEVICE);

        if (connection->n_peers >= connection->broker->options->client_descriptors)
                return "too many userfaultfds from one client";
        /* Half of the places are the VMM's alone, so that devices cannot lock it out. */
        if (is_vmm ? account_has_room(connection->account, ACCOUNT_PEERS_VMM, PEERS_MAX - devices)
                   : account_has_room(connection->account, ACCOUNT_PEERS_DEVICE, PEERS_MAX / 2))
                return NULL;
        return "too many userfaultfds are served, or too many of this user";
}

/* Takes what `uffd` holds, and leaves -1 there, if it succeeds. */
static int attach(struct connection *connection, const union call *call, int *uffd) {
        struct broker *broker = connection->broker;
        struct peer_options options = {
                .fault_around = broker->options->fault_around / PB_PAGE_BYTES,
                .privileged = connection->role == PB_AS_VMM,
                .account = connection->account,
                .tally = connection->tally,
        };
        struct peer_reply reply = { .socket = -1 };
        struct peer *peer;
        char name[PB_NAME_SIZE];
        const char *why;
        int r;

        if (connection->role != PB_AS_VMM && connection->role != PB_AS_DEVICE)
                return answer(connection, call, -EACCES, 0, "this role may not hand over userfaultfds");
        if (*uffd < 0)
                return answer(connection, call, -EINVAL, 0, "no userfaultfd came with the message");
        if (connection->pidfd < 0)
                return answer(connection, call, -ESRCH, 0, "the process cannot be watched: its pid is not visible here");
        why = why_no_place(connection, options.privileged);
        if (why) {
                if (broker_may_log_client())
                        log_event(LOG_WARNING, (.client = connection->name),
                                  "client %s (pid %d, uid %u): its userfaultfd is not served: %s; it has %u",
                                  connection->name, (int) connection->credentials.pid, connection->credentials.uid, why,
                                  connection->n_peers);
                return answer(connection, call, -ENOSPC, 0, why);
        }
        memcpy(name, connection->name, sizeof name);
        options.name = name;
        options.id = ++broker->last_peer_id;
        r = reply_for(connection, call, &reply);
        if (r < 0)
                return answer(connection, call, r, 0, "out of descriptors");
        r = restart_enter_peer(broker, options.id, name, options.privileged, connection->credentials.pid,
                               connection->credentials.uid, connection->account, connection->pidfd, *uffd, &options.entry);
        if (r < 0) {
                reply.socket = fd_close(reply.socket);
                return answer(connection, call, r, 0,
                              r == -ENOSPC ? "the supervisor's descriptor store is full ($FDSTORE): it could not be served "
                                             "after a restart"
                                           : "the supervisor's descriptor store does not take it");
        }
        options.ledger = broker->ledger;
        r = peer_new(&peer, broker->pager, &options, *uffd, reply);
        if (r < 0) {
                restart_leave_peer(broker, options.entry);
                reply.socket = fd_close(reply.socket);
                return answer(connection, call, r, 0, "cannot start a thread for it");
        }
        *uffd = -1;
        connection_add_peer(connection, peer, options.id);
        if (broker_may_log_client())
                log_event(LOG_INFO, (.id = EVENT_PEER_ATTACHED, .client = name),
                          "peer %u (%s): userfaultfd of pid %d is served", options.id, name,
                          (int) connection->credentials.pid);
        return 0;
}

static int call_attach(struct connection *connection, const union call *call, int fd) {
        int r = attach(connection, call, &fd);

        closer_close(fd, connection->account);
        return r;
}

static int call_map(struct connection *connection, const union call *call) {
        const struct pb_message_map_peer *map = &call->map;
        struct memory *memory = pager_get_memory(connection->broker->pager, map->memory);
        struct peer *peer = connection_find_peer(connection, map->peer);
        struct peer_reply reply = { .socket = -1 };
        uint64_t end;
        int r;

        if (!peer)
                return answer(connection, call, -ENOENT, 0, "no such peer, or it is no longer served");
        if (!memory || atomic_load(&memory->hidden))
                return answer(connection, call, -ENOENT, 0, "no such memory");
        if (!is_aligned(map->address | map->length | map->offset, memory->backing_size) || map->length == 0 ||
            map->address == 0 || __builtin_add_overflow(map->address, map->length, &end) ||
            !range_fits(map->offset, map->length, memory->size))
                return answer(connection, call, -EINVAL, 0,
                              "address, length and offset must be multiples of the backing page and lie inside the memory");
        /* A page is mapped whole or not at all: the first touch would wait for 1 GiB. */
        if (memory->backing_size == 1ull << 30 && !connection->broker->options->gigantic_faults)
                return answer(connection, call, -EOPNOTSUPP, 0,
                              "this memory has 1 GiB pages, of which one fault fetches all; pagebrokerd "
                              "--gigantic-faults=on allows it, 2 MiB pages are usually meant");
        r = reply_for(connection, call, &reply);
        if (r == 0) {
                r = peer_map(peer, memory, map->address, map->length, map->offset, reply);
                if (r < 0)
                        (void) fd_close(reply.socket);
        }
        return r < 0 ? answer(connection, call, r, 0, "out of descriptors or memory") : 0;
}

static int call_detach(struct connection *connection, const union call *call) {
        struct peer *peer = connection_find_peer(connection, call->detach.peer);
        struct peer_reply reply = { .socket = -1 };
        int r;

        if (!peer)
                return answer(connection, call, -ENOENT, 0, "no such peer");
        r = reply_for(connection, call, &reply);
        if (r == 0) {
                r = peer_detach(peer, reply);
                if (r < 0)
                        (void) fd_close(reply.socket);
        }
        return r < 0 ? answer(connection, call, r, 0, "out of descriptors or memory") : 0;
}

static int call_stats(struct connection *connection, const union call *call) {
        struct pb_message_stats_reply reply = {
                .header = { .type = PB_MSG_STATS_REPLY, .size = sizeof reply, .serial = call->header.serial },
        };
        struct broker_counters counters;

        broker_count(connection->broker, &counters);
        reply.pages_total = counters.pages_total;
        reply.pages_data = counters.pages_data;
        reply.pages_present = counters.pages_present;
        reply.pages_data_present = counters.pages_fetched;
        reply.pages_poisoned = counters.pages_poisoned;
        reply.pages_in_flight = counters.pages_in_flight;
        reply.faults_linked = counters.faults_linked;
        reply.faults_peer = counters.faults_peer;
        reply.bytes_fetched = counters.bytes_fetched;
        reply.clients = counters.clients;
        reply.peers = counters.peers;
        reply.complete = counters.complete;
        reply.fill = counters.fill;
        reply.sources_lost = counters.sources_lost;
        reply.pages_left_out = counters.pages_left_out;
        (void) connection_send(connection, &reply, sizeof reply, NULL, 0);
        return 0;
}

static int call_set_fill(struct connection *connection, const union call *call) {
        if (connection->role != PB_AS_VMM)
                return answer(connection, call, -EACCES, 0, "only the vmm role may switch the fill");
        if (call->set_fill.on > 1)
                return answer(connection, call, -EINVAL, 0, "on is 0 or 1");
        broker_set_fill(connection->broker, call->set_fill.on, pager_get_fill_rate(connection->broker->pager),
                        connection->name);
        return answer(connection, call, 0, 0, "");
}

static int call_explain(struct connection *connection, const union call *call) {
        struct memory *memory = pager_get_memory(connection->broker->pager, call->explain.memory);
        uint64_t page = call->explain.page;
        char text[PB_TEXT_SIZE] = "";
        int error;

        if (connection->role == PB_AS_OBSERVER)
                return answer(connection, call, -EACCES, 0, "an observer has no pages");
        if (!memory || page >= memory->n_pages)
                return answer(connection, call, -EINVAL, 0, "no such page");
        error = memory_poison_reason(memory, page);
        if (error)
                (void) snprintf(text, sizeof text, "memory %s, page %llu (offset 0x%llx): source %s: %s", memory->name,
                                (unsigned long long) page, (unsigned long long) (page * PB_PAGE_BYTES), memory->source->name,
                                source_error_text(error));
        return answer(connection, call, error, page, text);
}

static int call_heal(struct connection *connection, const union call *call) {
        const struct pb_message_heal *heal = &call->heal;
        uint64_t healed = 0;
        int r;

        if (connection->role != PB_AS_VMM)
                return answer(connection, call, -EACCES, 0, "only the vmm role may heal pages");
        if (heal->memory != UINT32_MAX)
                r = broker_heal(connection->broker, heal->memory, heal->first, heal->n_pages, &healed);
        else if (heal->first != 0 || heal->n_pages != 0)
                r = -EINVAL;
        else
                r = broker_heal_all(connection->broker, &healed);
        return answer(connection, call, r, healed,
                      r == -ENOENT   ? "no such memory"
                      : r == -EINVAL ? "the range does not lie in the memory"
                      : r < 0        ? source_error_text(r)
                                     : "");
}

static int call_add_memory(struct connection *connection, const union call *call) {
        const char *text = "";
        int r;

        if (connection->role != PB_AS_VMM)
                return answer(connection, call, -EACCES, 0, "only the vmm role may plug memory in");
        r = hotplug_add(connection->broker, &call->add_memory, &text);
        return answer(connection, call, r < 0 ? r : 0, r < 0 ? 0 : (uint64_t) r, text);
}

static int call_remove_memory(struct connection *connection, const union call *call) {
        if (connection->role != PB_AS_VMM)
                return answer(connection, call, -EACCES, 0, "only the vmm role may remove memory");
        hotplug_remove(connection, call->of_memory.memory, call->header.serial);
        return 0;
}

static int call_release(struct connection *connection, const union call *call) {
        if (call->of_memory.memory == PB_RELEASE_ALL) {
                hotplug_release_all(connection);
                return answer(connection, call, 0, 0, "");
        }
        if (call->of_memory.memory >= connection->broker->n_memories)
                return answer(connection, call, -ENOENT, 0, "no such memory");
        hotplug_release(connection, call->of_memory.memory);
        return answer(connection, call, 0, 0, "");
}

static int call_tell_memory(struct connection *connection, const union call *call) {
        struct broker *broker = connection->broker;
        uint32_t index = call->of_memory.memory;

        if (index >= broker->n_memories)
                return answer(connection, call, -ENOENT, 0, "no such memory");
        if (hotplug_is_shown(broker->memories[index], false) && !(connection->told & 1u << index))
                connection_tell_memory(connection, broker->memories[index]);
        return answer(connection, call, 0, 0, "");
}

static int call_unmap(struct connection *connection, const union call *call) {
        const struct pb_message_unmap_peer *unmap = &call->unmap;
        struct peer *peer = connection_find_peer(connection, unmap->peer);
        struct peer_reply reply = { .socket = -1 };
        uint64_t end;
        int r;

        if (!peer)
                return answer(connection, call, -ENOENT, 0, "no such peer, or it is no longer served");
        if (!is_aligned(unmap->address | unmap->length, PB_PAGE_BYTES) || unmap->length == 0 ||
            __builtin_add_overflow(unmap->address, unmap->length, &end))
                return answer(connection, call, -EINVAL, 0, "address and length must be multiples of the page size");
        r = reply_for(connection, call, &reply);
        if (r == 0) {
                r = peer_unmap(peer, unmap->address, unmap->length, reply);
                if (r < 0)
                        (void) fd_close(reply.socket);
        }
        return r < 0 ? answer(connection, call, r, 0, "out of descriptors or memory") : 0;
}

int connection_call(struct connection *connection, const void *message, size_t size, int fd, const char **ret_reason) {
        static const size_t sizes[] = {
                [PB_MSG_ATTACH_PEER] = sizeof(struct pb_message_attach_peer),
                [PB_MSG_MAP_PEER] = sizeof(struct pb_message_map_peer),
                [PB_MSG_DETACH_PEER] = sizeof(struct pb_message_detach_peer),
                [PB_MSG_STATS] = sizeof(struct pb_message_plain),
                [PB_MSG_SET_FILL] = sizeof(struct pb_message_set_fill),
                [PB_MSG_EXPLAIN] = sizeof(struct pb_message_explain),
                [PB_MSG_HEAL] = sizeof(struct pb_message_heal),
                [PB_MSG_ADD_MEMORY] = sizeof(struct pb_message_add_memory),
                [PB_MSG_REMOVE_MEMORY] = sizeof(struct pb_message_of_memory),
                [PB_MSG_RELEASE] = sizeof(struct pb_message_of_memory),
                [PB_MSG_UNMAP_PEER] = sizeof(struct pb_message_unmap_peer),
                [PB_MSG_TELL_MEMORY] = sizeof(struct pb_message_of_memory),
        };
        const union call *call = message;
        uint32_t type = call->header.type;

        if (type >= ELEMENTS(sizes) || sizes[type] == 0 || sizes[type] != size || call->header.serial == 0) {
                closer_close(fd, connection->account);
                *ret_reason = "sent a message of an unknown type, a wrong size for its type, or without a serial";
                return -EPROTO;
        }
        switch (type) {
        case PB_MSG_ATTACH_PEER:
                return call_attach(connection, call, fd);
        case PB_MSG_MAP_PEER:
                return call_map(connection, call);
        case PB_MSG_DETACH_PEER:
                return call_detach(connection, call);
        case PB_MSG_SET_FILL:
                return call_set_fill(connection, call);
        case PB_MSG_EXPLAIN:
                return call_explain(connection, call);
        case PB_MSG_HEAL:
                return call_heal(connection, call);
        case PB_MSG_ADD_MEMORY:
                return call_add_memory(connection, call);
        case PB_MSG_REMOVE_MEMORY:
                return call_remove_memory(connection, call);
        case PB_MSG_RELEASE:
                return call_release(connection, call);
        case PB_MSG_TELL_MEMORY:
                return call_tell_memory(connection, call);
        case PB_MSG_UNMAP_PEER:
                return call_unmap(connection, call);
        default:
                return call_stats(connection, call);
        }
}
