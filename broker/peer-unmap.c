/* SPDX-License-Identifier: MIT */
/* What a peer no longer maps. */
#include <errno.h>

#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/peer-internal.h"
#include "common/macro.h"

void peer_leave_memory(struct peer *peer, struct memory *memory) {
        for (unsigned i = 0; i < peer->n_mappings; i++)
                if (peer->mappings[i].memory == memory)
                        return;
        peer_unlist(peer, memory);
        peer_forget_failed(peer, memory);
        if (peer->pager->events.peer_ended)
                peer->pager->events.peer_ended(peer->pager->events.data);
}

/* Nothing is unregistered: that went with the mapping, and something else may be there by now. */
int peer_command_unmap(struct peer *peer, const struct peer_mapping *range, const char **ret_text) {
        struct memory *touched[PEER_MAPPINGS_MAX];
        unsigned n = 0;

        *ret_text = "too many mappings in one process";
        for (unsigned i = 0; i < peer->n_mappings; i++) {
                const struct peer_mapping *mapping = &peer->mappings[i];
                uint64_t end = mapping->address + mapping->length;

                if (mapping->address >= range->address + range->length || range->address >= end)
                        continue;
                /* One is cut into two: it is the only one touched then. */
                if (mapping->address < range->address && range->address + range->length < end &&
                    peer->n_mappings == PEER_MAPPINGS_MAX)
                        return -ENOSPC;
                touched[n++] = mapping->memory;
        }
        peer_forget_range(peer, range->address, range->length);
        peer_commit(peer);
        peer_wake_range(peer, range->address, range->length); /* who faulted just before finds what is there now */
        for (unsigned i = 0; i < n; i++)
                peer_leave_memory(peer, touched[i]);
        *ret_text = "";
        return 0;
}

int peer_command_forget(struct peer *peer, struct memory *memory) {
        unsigned keep = 0;

        for (unsigned i = 0; i < peer->n_mappings; i++)
                if (peer->mappings[i].memory != memory)
                        peer->mappings[keep++] = peer->mappings[i];
        if (keep == peer->n_mappings)
                return 0;
        peer->n_mappings = keep;
        peer_commit(peer);
        peer_leave_memory(peer, memory);
        return 0;
}

int peer_unmap(struct peer *peer, uint64_t address, uint64_t length, struct peer_reply reply) {
        struct peer_command command = {
                .kind = PEER_COMMAND_UNMAP,
                .mapping = { .address = address, .length = length },
                .reply = reply,
        };

        return peer_push_command(peer, &command);
}

void peer_forget_memory(struct peer *peer, struct memory *memory) {
        struct peer_command command = {
                .kind = PEER_COMMAND_FORGET,
                .mapping = { .memory = memory },
                .reply = { .socket = -1 },
        };

        /* Without memory for it the peer holds on: the memory stays, and can be released again. */
        (void) peer_push_command(peer, &command);
}
