/* SPDX-License-Identifier: MIT */
#include "broker/peer.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/account.h"
#include "broker/closer.h"
#include "broker/events.h"
#include "broker/kill-point.h"
#include "broker/ledger.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/peer-internal.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker poll read eventfd2 prctl:option=PR_SET_NAME */

/* Hints come in swarms: after one the thread looks again by itself before it asks to be woken. */
#define HINTS_LINGER_MS 2

static atomic_uint running;

unsigned peers_running(void) {
        return atomic_load(&running);
}

bool peer_is_dead(const struct peer *peer) {
        return atomic_load(&peer->dead);
}

const char *peer_name(const struct peer *peer) {
        return peer->name;
}

const struct fault_note *peer_notes(const struct peer *peer) {
        return peer->notes;
}

struct ledger_peer *peer_entry(const struct peer *peer) {
        return peer->entry;
}

/* Counted by user, as long as the thread runs: whoever's process ends without its thread, since that hangs, has not given
 * its place back. */
static enum account_kind peer_kind(const struct peer *peer) {
        return peer->privileged ? ACCOUNT_PEERS_VMM : ACCOUNT_PEERS_DEVICE;
}

static void peer_count(uid_t account, enum account_kind kind, int change) {
        if (change > 0)
                account_add(account, kind);
        else
                account_remove(account, kind);
        (void) atomic_fetch_add(&running, (unsigned) change);
}

static void peer_unref(struct peer *peer) {
        if (atomic_fetch_sub(&peer->references, 1) != 1)
                return;
        if (peer->entry)
                ledger_peer_release(peer->ledger, peer->entry);
        for (struct peer_command *command = peer->commands, *next; command; command = next) {
                next = command->next;
                (void) fd_close(command->reply.socket);
                free(command);
        }
        closer_close(peer->uffd, peer->account); /* takes the mm lock of its owner, if he has no other */
        driver_done(&peer->driver);
        (void) pthread_mutex_destroy(&peer->lock);
        peer->tally = tally_unref(peer->tally);
        free(peer);
}

/* The control thread drops it from ledger and store. */
static void peer_tell(struct peer *peer) {
        const struct pager_events *events = &peer->pager->events;

        if (events->peer_ended)
                events->peer_ended(events->data);
}

void peer_gone(struct peer *peer, const char *why) {
        if (!atomic_exchange(&peer->dead, true))
                log_event(LOG_INFO, (.id = EVENT_PEER_GONE, .client = peer->name), "peer %u (%s): no longer served: %s", peer->id,
                          peer->name, why);
}

bool peer_list(struct peer *peer, struct memory *memory) {
        bool ok = true;

        (void) pthread_mutex_lock(&memory->peers_lock);
        for (unsigned i = 0; i < memory->n_peers; i++)
                if (memory->peers[i] == peer)
                        goto out;
        /* Half of the places are the VMM's, so that devices cannot lock it out. */
        ok = memory->n_peers < PEERS_PER_MEMORY_MAX / (peer->privileged ? 1 : 2);
        if (ok) {
                memory->peers[memory->n_peers] = peer;
                __atomic_store_n(&memory->n_peers, memory->n_peers + 1, __ATOMIC_RELEASE);
        }
out:
        (void) pthread_mutex_unlock(&memory->peers_lock);
        return ok;
}

void peer_unlist(struct peer *peer, struct memory *memory) {
        (void) pthread_mutex_lock(&memory->peers_lock);
        for (unsigned i = 0; i < memory->n_peers; i++)
                if (memory->peers[i] == peer) {
                        memory->peers[i] = memory->peers[memory->n_peers - 1];
                        __atomic_store_n(&memory->n_peers, memory->n_peers - 1, __ATOMIC_RELEASE);
                        break;
                }
        (void) pthread_mutex_unlock(&memory->peers_lock);
}

/* What was mapped there is gone; what lies left and right of it is still served. */
void peer_forget_range(struct peer *peer, uint64_t address, uint64_t length) {
        uint64_t end = address + length;

        for (unsigned i = 0; i < peer->n_mappings;) {
                const struct peer_mapping old = peer->mappings[i];
                uint64_t old_end = old.address + old.length;

                if (old_end <= address || end <= old.address) {
                        i++;
                        continue;
                }
                peer->mappings[i] = peer->mappings[--peer->n_mappings];
                if (old.address < address)
                        peer->mappings[peer->n_mappings++] = (struct peer_mapping) {
                                .memory = old.memory,
                                .address = old.address,
                                .length = address - old.address,
                                .offset = old.offset,
                        };
                if (old_end > end)
                        peer->mappings[peer->n_mappings++] = (struct peer_mapping) {
                                .memory = old.memory,
                                .address = end,
                                .length = old_end - end,
                                .offset = old.offset + (end - old.address),
                        };
        }
}

/* For the next broker, which may have to begin in the middle of what comes after this. */
void peer_commit(struct peer *peer) {
        struct ledger_mapping *table = peer->entry ? ledger_peer_spare(peer->entry) : NULL;

        if (!table)
                return;
        for (unsigned i = 0; i < peer->n_mappings; i++)
                table[i] = (struct ledger_mapping) {
                        .address = peer->mappings[i].address,
                        .length = peer->mappings[i].length,
                        .offset = peer->mappings[i].offset,
                        .memory = peer->mappings[i].memory->index,
                };
        ledger_peer_flip(peer->entry, peer->n_mappings);
}

/* ---- the thread ---- */

/* Invariant 12. What is not complete stays registered. */
static void peer_release_complete(struct peer *peer) {
        unsigned keep = 0;

        if (!atomic_exchange(&peer->release, false))
                return;
        for (unsigned i = 0; i < peer->n_mappings; i++)
                if (memory_is_complete(peer->mappings[i].memory)) {
                        /* Tried again when the thread looks after what has failed. */
                        if (!peer_clear_marks(peer, peer->mappings[i].memory)) {
                                atomic_store(&peer->release, true);
                                peer->mappings[keep++] = peer->mappings[i];
                                continue;
                        }
                        peer_unregister(peer, peer->mappings[i].address, peer->mappings[i].length,
                                        peer->mappings[i].memory->backing_size);
                        /* It still maps what may leave: until UNMAP_PEER, RELEASE or its end. */
                        if (peer->mappings[i].memory->pluggable)
                                peer->mappings[keep++] = peer->mappings[i];
                } else
                        peer->mappings[keep++] = peer->mappings[i];
        if (keep < peer->n_mappings) {
                peer->n_mappings = keep;
                peer_commit(peer);
        }
}

static void peer_sleep(struct peer *peer, bool linger) {
        struct pollfd fds[2] = {
                { .fd = peer->n_faults < PEER_FAULTS_MAX ? peer->uffd : -1, .events = POLLIN },
                { .fd = peer->driver.eventfd, .events = POLLIN },
        };
        int timeout = linger ? HINTS_LINGER_MS : peer->failed ? (int) (FAULT_AGAIN_US / USEC_PER_MSEC) : -1;

        if (!linger) {
                bool hints;

                (void) pthread_mutex_lock(&peer->lock);
                hints = peer->n_hints > 0;
                peer->hints_wanted = true;
                (void) pthread_mutex_unlock(&peer->lock);
                if (hints)
                        return;
        }
        if (__atomic_load_n(&peer->driver.signalled, __ATOMIC_ACQUIRE) || poll(fds, ELEMENTS(fds), timeout) < 0)
                return;
        if (fds[1].revents & POLLIN)
                (void) !read(peer->driver.eventfd, &(uint64_t) { 0 }, sizeof(uint64_t));
        if (fds[0].revents & (POLLERR | POLLNVAL))
                peer_gone(peer, "its owner made the userfaultfd blocking (O_NONBLOCK cleared)");
}

static void *peer_thread(void *arg) {
        struct peer *peer = arg;
        const enum account_kind kind = peer_kind(peer);
        const uid_t account = peer->account;
        bool linger = false;

        (void) pthread_setname_np(pthread_self(), "peer");
        driver_enter(&peer->driver);
        if (peer->restored) {
                if (!peer_restore_marks(peer))
                        log_warning("peer %u (%s): out of memory: pages that were poisoned may stay so", peer->id, peer->name);
                peer_wake_all(peer);
        }
        for (;;) {
                bool any, hints;

                /* Before everything that is looked at, `stop` too: who changes it later signals again. */
                __atomic_store_n(&peer->driver.signalled, false, __ATOMIC_SEQ_CST);
                if (atomic_load(&peer->stop) || atomic_load(&peer->dead))
                        break;
                any = peer_run_commands(peer);
                any = peer_run_inbox(peer) || any;
                any = peer_read_faults(peer) || any;
                any = peer_ask_again(peer) || any;
                peer_release_complete(peer);
                if (any) /* who waits goes before what might be touched later */
                        continue;
                if (peer_serve_around(peer))
                        continue;
                hints = peer_run_hints(peer);
                peer_sleep(peer, hints || linger);
                linger = hints;
        }
        atomic_store(&peer->dead, true);
        for (unsigned i = 0; i < PB_MEMORIES_MAX; i++) {
                struct memory *memory = pager_get_memory(peer->pager, i);

                if (memory)
                        peer_unlist(peer, memory);
        }
        peer_tell(peer); /* after that: a memory that leaves may wait for nobody else */
        peer_forget_faults(peer);
        peer_refuse_commands(peer);
        /* Last of all: a broker that stops waits for the count, and then frees what peer_unref() uses. */
        peer_unref(peer);
        peer_count(account, kind, -1);
        return NULL;
}

static struct peer *peer_make(struct pager *pager, const struct peer_options *options) {
        struct peer *peer = calloc(1, sizeof *peer);

        if (!peer)
                return NULL;
        peer->pager = pager;
        peer->id = options->id;
        peer->fault_around = options->fault_around;
        peer->privileged = options->privileged;
        peer->account = options->account;
        peer->tally = tally_ref(options->tally);
        (void) snprintf(peer->name, sizeof peer->name, "%s", options->name);
        peer->origin.id = options->id;
        peer->origin.key = (uint64_t) options->id << 1 | 1;
        memcpy(peer->origin.name, peer->name, sizeof peer->origin.name);
        peer->uffd = -1;
        peer->limit = LOG_LIMIT_DEFAULT;
        atomic_init(&peer->references, 2);
        (void) pthread_mutex_init(&peer->lock, NULL);
        peer->ledger = options->ledger;
        peer->entry = options->entry;
        if (driver_init(&peer->driver) == 0)
                return peer;
        (void) pthread_mutex_destroy(&peer->lock);
        free(peer);
        return NULL;
}

/* On failure descriptor, reply and ledger's entry are the caller's still. */
static int peer_start(struct peer *peer, int uffd) {
        sigset_t all, saved;
        pthread_t thread = 0;
        int r;

        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &saved);
        peer->uffd = uffd;
        peer_count(peer->account, peer_kind(peer), 1);
        r = -pthread_create(&thread, NULL, peer_thread, peer);
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        if (r < 0) {
                peer_count(peer->account, peer_kind(peer), -1);
                peer->uffd = -1;
                peer->entry = NULL;
                if (peer->commands)
                        peer->commands->reply.socket = -1;
                atomic_store(&peer->references, 1);
                peer_unref(peer);
                return r;
        }
        (void) pthread_detach(thread);
        return 0;
}

int peer_new(struct peer **ret, struct pager *pager, const struct peer_options *options, int uffd,
             struct peer_reply reply) {
        struct peer_command command = { .kind = PEER_COMMAND_API, .reply = reply };
        struct peer *peer = peer_make(pager, options);
        int r = peer ? peer_push_command(peer, &command) : -ENOMEM;

        if (r == 0)
                r = peer_start(peer, uffd);
        else if (peer) {
                peer->entry = NULL;
                atomic_store(&peer->references, 1);
                peer_unref(peer);
        }
        if (r == 0)
                *ret = peer;
        return r;
}

static void peer_take_mappings(struct peer *peer) {
        const struct ledger_peer *entry = peer->entry;
        unsigned table = entry->valid & 1;

        for (uint64_t i = 0; i < min_u64(entry->n_mappings[table], PEER_MAPPINGS_MAX); i++) {
                const struct ledger_mapping *was = &entry->mappings[table][i];
                struct memory *memory = pager_get_memory(peer->pager, was->memory);

                if (!memory)
                        continue;
                peer->mappings[peer->n_mappings++] = (struct peer_mapping) {
                        .memory = memory,
                        .address = was->address,
                        .length = was->length,
                        .offset = was->offset,
                };
                (void) peer_list(peer, memory);
                /* It may have died between the last page and the unregistering. */
                if (memory_is_complete(memory))
                        atomic_store(&peer->release, true);
        }
}

int peer_new_restored(struct peer **ret, struct pager *pager, const struct peer_options *options, int uffd) {
        struct peer *peer = peer_make(pager, options);
        int r;

        if (!peer)
                return -ENOMEM;
        peer->restored = true;
        peer->uffd = uffd; /* hints come from now on */
        peer_take_mappings(peer);
        r = peer_start(peer, uffd);
        if (r == 0)
                *ret = peer;
        return r;
}

struct peer *peer_stop(struct peer *peer) {
        if (!peer)
                return NULL;
        atomic_store(&peer->stop, true);
        driver_signal(&peer->driver);
        peer_unref(peer);
        return NULL;
}
