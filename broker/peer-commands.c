/* SPDX-License-Identifier: MIT */
/* What others want of a peer: queued by any thread, carried out and answered by the peer's own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "broker/kill-point.h"
#include "broker/ledger.h"
#include "broker/memory.h"
#include "broker/peer-internal.h"
#include "broker/peer.h"
#include "common/cleanup.h"
#include "common/fence.h"
#include "common/log.h"
#include "common/packet.h"

/* #syscalls:broker sendmsg */

static void reply_send(struct peer_reply *reply, int error, uint64_t value, const char *text) {
        struct pb_message_result result = {
                .header = { .type = PB_MSG_RESULT, .size = sizeof result, .serial = reply->serial },
                .error = error,
                .value = value,
        };

        (void) snprintf(result.text, sizeof result.text, "%s", text);
        /* A client that does not read its answers goes without. */
        (void) packet_send(reply->socket, &result, sizeof result, NULL, 0, MSG_DONTWAIT);
        reply->socket = fd_close(reply->socket);
}

/*
 * The ledger says what will be mapped before it is registered. The other way round, a broker that begins in between
 * would have what was mapped there before, and continue pages of it in what is mapped there now. With a mapping in the
 * ledger that is not registered nothing can go wrong: the kernel refuses to continue there, and the client, which has no
 * answer, asks again.
 */
static int peer_register_and_commit(struct peer *peer, const struct peer_mapping *mapping,
                                    struct peer_mapping before[static PEER_MAPPINGS_MAX], unsigned n_before) {
        int r;

        memcpy(before, peer->mappings, n_before * sizeof before[0]);
        peer_forget_range(peer, mapping->address, mapping->length);
        peer->mappings[peer->n_mappings++] = *mapping;
        peer_commit(peer);
        KILL_POINT("map-entered");
        r = peer_register(peer, mapping);
        KILL_POINT("map-registered");
        if (r < 0) {
                memcpy(peer->mappings, before, n_before * sizeof before[0]);
                peer->n_mappings = n_before;
                peer_commit(peer);
        }
        return r;
}

static void peer_take_mapping_back(struct peer *peer, const struct peer_mapping *mapping) {
        peer_unregister(peer, mapping->address, mapping->length, mapping->memory->backing_size);
        peer_forget_range(peer, mapping->address, mapping->length);
        peer_commit(peer);
}

static int peer_command_map(struct peer *peer, const struct peer_mapping *mapping, const char **ret_text) {
        struct peer_mapping before[PEER_MAPPINGS_MAX];
        unsigned n_before = peer->n_mappings;
        int r;

        /* Nothing will fault any more: there is nothing to register for. But what may leave must not leave from under it. */
        *ret_text = "";
        if (memory_is_complete(mapping->memory) && !mapping->memory->pluggable)
                return 0;
        *ret_text = "too many mappings in one process";
        if (peer->n_mappings + 3 > PEER_MAPPINGS_MAX) /* it may cut one into two, and is one itself */
                return -ENOSPC;
        r = peer_register_and_commit(peer, mapping, before, n_before);
        *ret_text = r == -EPERM    ? "the mapping must be writable (PROT_WRITE on a read-write descriptor)"
                    : r == -EINVAL ? "not a shared mapping of guest memory, or not aligned to its backing page"
                    : r == -EBUSY  ? "another userfaultfd is registered there already"
                                   : "UFFDIO_REGISTER failed";
        if (r < 0)
                return r;
        /* What the new one lies over is gone in any case. */
        for (unsigned i = 0; i < n_before; i++)
                if (before[i].memory != mapping->memory)
                        peer_leave_memory(peer, before[i].memory);
        if (!peer_list(peer, mapping->memory)) {
                peer_take_mapping_back(peer, mapping);
                *ret_text = "too many processes map this memory";
                return -ENOSPC;
        }
        fence_full();
        /* In the list first, then this look; hotplug_check() hides first, then looks at the list: one of us sees the other. */
        if (atomic_load(&mapping->memory->hidden)) {
                peer_take_mapping_back(peer, mapping);
                peer_leave_memory(peer, mapping->memory);
                *ret_text = "the memory has left";
                return -ENOENT;
        }
        /* Completion may have passed between the look above and our entry in the list. */
        if (memory_is_complete(mapping->memory))
                atomic_store(&peer->release, true);
        *ret_text = "";
        return 0;
}

static int peer_command_detach(struct peer *peer) {
        for (unsigned i = 0; i < peer->n_mappings; i++)
                peer_unregister(peer, peer->mappings[i].address, peer->mappings[i].length,
                                peer->mappings[i].memory->backing_size);
        peer->n_mappings = 0;
        peer_commit(peer);
        /* Before the answer: who hangs up after it leaves no peer behind that his connection would be kept for. */
        atomic_store(&peer->dead, true);
        return 0;
}

bool peer_run_commands(struct peer *peer) {
        struct peer_command *commands, *command;

        (void) pthread_mutex_lock(&peer->lock);
        commands = peer->commands;
        peer->commands = NULL;
        (void) pthread_mutex_unlock(&peer->lock);
        if (!commands)
                return false;
        while ((command = commands)) {
                enum peer_command_kind kind = command->kind;
                const char *text = "";
                uint32_t suppressed;
                int r;

                commands = command->next;
                peer->n_commands--;
                if (command->kind == PEER_COMMAND_API) {
                        r = peer_api(peer);
                        if (r < 0)
                                text = "UFFDIO_API failed: has the sender called it already, or does the kernel lack minor "
                                       "faults on shared memory (Linux 5.14)?";
                } else if (command->kind == PEER_COMMAND_MAP)
                        r = peer_command_map(peer, &command->mapping, &text);
                else if (command->kind == PEER_COMMAND_UNMAP)
                        r = peer_command_unmap(peer, &command->mapping, &text);
                else if (command->kind == PEER_COMMAND_FORGET)
                        r = peer_command_forget(peer, command->mapping.memory);
                else
                        r = peer_command_detach(peer);
                if (command->reply.socket >= 0)
                        reply_send(&command->reply, r, peer->id, text);
                free(command);
                if (kind == PEER_COMMAND_API)
                        KILL_POINT("attached");
                else if (kind == PEER_COMMAND_MAP)
                        KILL_POINT("mapped");
                if (r < 0 && log_limit_pass(&peer->limit, &suppressed))
                        log_warning("peer %u (%s): %s: %s", peer->id, peer->name, text, strerror(-r));
                /* Its owner chose the events: reading one of a fork would put a descriptor into our table. */
                if (r < 0 && kind == PEER_COMMAND_API)
                        peer_gone(peer, "it was never set up");
        }
        return true;
}

void peer_refuse_commands(struct peer *peer) {
        struct peer_command *commands, *command;

        (void) pthread_mutex_lock(&peer->lock);
        commands = peer->commands;
        peer->commands = NULL;
        (void) pthread_mutex_unlock(&peer->lock);
        while ((command = commands)) {
                commands = command->next;
                if (command->reply.socket >= 0)
                        reply_send(&command->reply, -ESRCH, 0, "the peer is no longer served");
                free(command);
        }
}

int peer_push_command(struct peer *peer, const struct peer_command *command) {
        struct peer_command *copy = malloc(sizeof *copy);

        if (!copy)
                return -ENOMEM;
        *copy = *command;
        (void) pthread_mutex_lock(&peer->lock);
        if (peer->n_commands >= PEER_COMMANDS_MAX) {
                (void) pthread_mutex_unlock(&peer->lock);
                free(copy);
                return -EBUSY;
        }
        peer->n_commands++;
        LL_APPEND(peer->commands, copy);
        (void) pthread_mutex_unlock(&peer->lock);
        driver_signal(&peer->driver);
        return 0;
}

int peer_map(struct peer *peer, struct memory *memory, uint64_t address, uint64_t length, uint64_t offset,
             struct peer_reply reply) {
        struct peer_command command = {
                .kind = PEER_COMMAND_MAP,
                .mapping = { .memory = memory, .address = address, .length = length, .offset = offset },
                .reply = reply,
        };

        return peer_push_command(peer, &command);
}

int peer_detach(struct peer *peer, struct peer_reply reply) {
        struct peer_command command = { .kind = PEER_COMMAND_DETACH, .reply = reply };

        return peer_push_command(peer, &command);
}
