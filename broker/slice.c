/* SPDX-License-Identifier: MIT */
#include "broker/slice.h"

#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "broker/fetch.h"
#include "broker/memory.h"
#include "broker/request.h"
#include "common/alloc.h"
#include "protocol/order.h"

static struct slice_shard *shard_of(struct memory *memory, uint64_t slice) {
        return &memory->shards[slice % SLICE_SHARDS];
}

static struct slice_shard *shard_lock(struct memory *memory, uint64_t slice) {
        struct slice_shard *shard = shard_of(memory, slice);

        (void) pthread_mutex_lock(&shard->lock);
        return shard;
}

static void shard_unlock(struct slice_shard *shard) {
        (void) pthread_mutex_unlock(&shard->lock);
}

void slice_shards_init(struct memory *memory) {
        for (unsigned i = 0; i < SLICE_SHARDS; i++) {
                (void) pthread_mutex_init(&memory->shards[i].lock, NULL);
                memory->shards[i].slices = NULL;
        }
}

void slice_shards_done(struct memory *memory) {
        for (unsigned i = 0; i < SLICE_SHARDS; i++) {
                struct slice *slice, *next;

                HASH_ITER (hh, memory->shards[i].slices, slice, next) {
                        HASH_DEL(memory->shards[i].slices, slice);
                        free(slice);
                }
                (void) pthread_mutex_destroy(&memory->shards[i].lock);
        }
}

static struct slice *slice_find(struct slice_shard *shard, uint64_t index) {
        struct slice *slice;

        HASH_FIND(hh, shard->slices, &index, sizeof index, slice);
        return slice;
}

static struct slice *slice_get(struct slice_shard *shard, uint64_t index) {
        struct slice *slice = slice_find(shard, index);

        if (slice)
                return slice;
        slice = alloc_zeroed(sizeof *slice);
        if (!slice)
                return NULL;
        slice->index = index;
        HASH_ADD(hh, shard->slices, index, sizeof slice->index, slice);
        return slice;
}

static uint64_t slice_busy(const struct slice *slice) {
        return slice->queued | slice->fetching | slice->installing;
}

static void slice_put(struct slice_shard *shard, struct slice *slice) {
        if (slice_busy(slice) || slice->waits || slice->fetches)
                return;
        HASH_DEL(shard->slices, slice);
        free(slice);
}

static void count_in_flight(struct memory *memory, int64_t delta) {
        atomic_fetch_add_explicit(&memory->pages_in_flight, (uint64_t) delta, memory_order_relaxed);
}

/* Pages of `mask` leave queued or fetching: their tickets die with it. */
static void slice_drop_tickets(struct slice *slice, uint64_t mask) {
        for (; mask; mask &= mask - 1)
                slice->ticket[__builtin_ctzll(mask)] = 0;
}

/* Pages that some request waits for, of whatever class: dropping them would leave it waiting for ever. */
static uint64_t slice_awaited(const struct slice *slice) {
        uint64_t mask = 0;
        struct wait *wait;

        DL_FOREACH (slice->waits, wait)
                mask |= wait->mask;
        return mask;
}

/* Pages that somebody stands still for. */
static uint64_t slice_demanded(const struct slice *slice) {
        uint64_t mask = 0;
        struct wait *wait;

        DL_FOREACH (slice->waits, wait)
                if (class_is_demand(wait->request->class))
                        mask |= wait->mask;
        return mask;
}

static uint64_t slice_ticket_mask(const struct slice *slice, uint64_t mask, uint32_t ticket) {
        uint64_t ours = 0;

        for (; mask; mask &= mask - 1)
                if (slice->ticket[__builtin_ctzll(mask)] == ticket)
                        ours |= mask & -mask;
        return ours;
}

/* Queued pages whose read has failed before. They keep to themselves: their tries are counted and their pause is not over,
 * and among others they would make a read fail for all. */
static uint64_t slice_retried(const struct slice *slice) {
        uint64_t mask = 0;
        struct fetch *fetch;

        DL_FOREACH2 (slice->fetches, fetch, slice_next)
                if (fetch->attempt > 0)
                        mask |= slice_ticket_mask(slice, fetch->mask & slice->queued, fetch->ticket);
        return mask;
}

/* Queued pages of fetches that nobody stands still for. */
static uint64_t slice_background(const struct slice *slice) {
        uint64_t mask = 0;
        struct fetch *fetch;

        if (slice->queued)
                DL_FOREACH2 (slice->fetches, fetch, slice_next)
                        if (!class_is_demand(fetch->class))
                                mask |= slice_ticket_mask(slice, fetch->mask & slice->queued, fetch->ticket);
        return mask;
}

static uint64_t slice_owner(const struct wait *wait) {
        return wait->request->origin ? wait->request->origin->key : 0;
}

/* Whom a read is begun for. */
static uint64_t slice_first_owner(const struct slice *slice, uint64_t mask, enum request_class class) {
        struct wait *wait;

        DL_FOREACH (slice->waits, wait)
                if (wait->mask & mask && wait->request->class <= class)
                        return slice_owner(wait);
        return 0;
}

static void clear_poison(struct memory *memory, uint64_t slice, uint64_t mask) {
        uint32_t *words = &memory->poison[slice * 2];

        if (!mask)
                return;
        order_poison_clear(&words[0], (uint32_t) mask);
        order_poison_clear(&words[1], (uint32_t) (mask >> 32));
        atomic_fetch_sub_explicit(&memory->pages_poisoned, (unsigned) __builtin_popcountll(mask), memory_order_relaxed);
}

int slice_want(struct memory *memory, uint64_t index, uint64_t mask, unsigned flags, struct wait *wait,
               uint64_t *ret_claimed) {
        struct slice_shard *shard = shard_lock(memory, index);
        struct slice *slice;
        uint64_t poisoned, claimed;
        struct fetch *fetch;

        /* Under the lock: a bit that is set meanwhile was claimed by another thread, which settles the page under this
         * same lock, so the page is either seen present here or still busy in its slice. */
        mask &= ~memory_present_mask(memory, index);
        if (!mask) {
                shard_unlock(shard);
                *ret_claimed = 0;
                return 0;
        }
        poisoned = memory_poison_mask(memory, index) & mask;
        if (flags & SLICE_SKIP_POISONED)
                mask &= ~poisoned;
        else if (poisoned && !(flags & SLICE_TAKE_OVER)) {
                shard_unlock(shard);
                return -EIO;
        }
        if (!mask) {
                shard_unlock(shard);
                *ret_claimed = 0;
                return 0;
        }
        slice = slice_get(shard, index);
        if (!slice) {
                shard_unlock(shard);
                return -ENOMEM;
        }
        if (flags & SLICE_TAKE_OVER) {
                uint64_t taken = mask & (slice->queued | slice->fetching);

                clear_poison(memory, index, poisoned);
                slice_drop_tickets(slice, taken);
                slice->queued &= ~taken;
                slice->fetching &= ~taken;
                claimed = mask & ~slice->installing;
                count_in_flight(memory, __builtin_popcountll(claimed & ~taken));
        } else {
                uint64_t taken = wait && class_is_demand(wait->request->class) ? slice_background(slice) & mask : 0;

                /* A demand does not wait for the end of a long read that nobody stands still for: it takes its own pages out
                 * of it. Who waits for that read gets them from here. */
                slice_drop_tickets(slice, taken);
                slice->queued &= ~taken;
                claimed = mask & ~slice_busy(slice);
                count_in_flight(memory, __builtin_popcountll(claimed & ~taken));
        }
        slice->installing |= claimed;
        if (wait) {
                wait->memory = memory;
                wait->slice = index;
                wait->mask = mask;
                wait->result = 0;
                __atomic_store_n(&wait->active, true, __ATOMIC_RELAXED);
                DL_APPEND(slice->waits, wait);
                if (mask & slice->queued)
                        DL_FOREACH2 (slice->fetches, fetch, slice_next)
                                if (fetch->mask & mask)
                                        fetch_raise(fetch, wait->request->class, slice_owner(wait));
        } else
                slice_put(shard, slice);
        shard_unlock(shard);
        *ret_claimed = claimed;
        return wait ? 1 : 0;
}

void slice_queue(struct memory *memory, uint64_t index, uint64_t mask, struct fetch *fetch, bool enqueue) {
        struct slice_shard *shard = shard_lock(memory, index);
        struct slice *slice = slice_find(shard, index);

        assert(slice && (slice->installing & mask) == mask);
        slice->installing &= ~mask;
        slice->queued |= mask;
        for (uint64_t m = mask; m; m &= m - 1)
                slice->ticket[__builtin_ctzll(m)] = fetch->ticket;
        /* Who joined while the page was ours did not raise anything: there was no fetch yet. */
        if (!class_is_demand(fetch->class) && slice_demanded(slice) & mask)
                fetch->class = CLASS_DEVICE;
        fetch->owner = slice_first_owner(slice, mask, fetch->class);
        DL_APPEND2(slice->fetches, fetch, slice_prev, slice_next);
        if (enqueue)
                fetch_enqueue(fetch);
        shard_unlock(shard);
}

/* Neighbours that come along: what is absent, and what waits for a first read of its own. */
static uint64_t slice_take_around(struct memory *memory, struct slice *slice, uint64_t around, struct fetch *fetch) {
        uint64_t queued;

        around &= ~(memory_present_mask(memory, slice->index) | memory_poison_mask(memory, slice->index));
        around &= ~(slice->fetching | slice->installing | slice_retried(slice));
        queued = around & slice->queued;
        slice->queued &= ~queued;
        count_in_flight(memory, __builtin_popcountll(around & ~queued));
        for (uint64_t m = around; m; m &= m - 1)
                slice->ticket[__builtin_ctzll(m)] = fetch->ticket;
        return around;
}

uint64_t slice_start_fetch(struct memory *memory, uint64_t index, struct fetch *fetch, bool must_be_awaited,
                           uint64_t around) {
        struct slice_shard *shard = shard_lock(memory, index);
        struct slice *slice = slice_find(shard, index);
        uint64_t ours;

        assert(slice);
        DL_DELETE2(slice->fetches, fetch, slice_prev, slice_next);
        ours = slice_ticket_mask(slice, fetch->mask & slice->queued, fetch->ticket);
        if (must_be_awaited && !(ours & slice_awaited(slice))) {
                slice_drop_tickets(slice, ours);
                slice->queued &= ~ours;
                count_in_flight(memory, -__builtin_popcountll(ours));
                ours = 0;
        }
        slice->queued &= ~ours;
        if (ours)
                ours |= slice_take_around(memory, slice, around & ~ours, fetch);
        slice->fetching |= ours;
        if (ours)
                fetch_set_mask(fetch, ours); /* what others took over meanwhile is not read */
        slice_put(shard, slice);
        shard_unlock(shard);
        return ours;
}

uint64_t slice_start_install(struct memory *memory, uint64_t index, const struct fetch *fetch) {
        struct slice_shard *shard = shard_lock(memory, index);
        struct slice *slice = slice_find(shard, index);
        uint64_t ours = 0;

        if (slice) {
                ours = slice_ticket_mask(slice, fetch->mask & slice->fetching, fetch->ticket);
                slice_drop_tickets(slice, ours);
                slice->fetching &= ~ours;
                slice->installing |= ours;
        }
        shard_unlock(shard);
        return ours;
}

static struct wait *settle_locked(struct slice *slice, uint64_t mask, int result) {
        struct wait *wait, *next, *list = NULL;

        slice->installing &= ~mask;
        DL_FOREACH_SAFE (slice->waits, wait, next) {
                if (!(wait->mask & mask))
                        continue;
                wait->mask &= ~mask;
                if (wait->mask && result == 0)
                        continue;
                wait->mask = 0;
                wait->result = result;
                DL_DELETE(slice->waits, wait);
                wait->next = list;
                list = wait;
        }
        return list;
}

struct wait *slice_settle_unwanted(struct memory *memory, uint64_t index, uint64_t mask, int result, bool leave_out,
                                   uint64_t *ret_demanded) {
        struct slice_shard *shard = shard_lock(memory, index);
        struct slice *slice = slice_find(shard, index);
        uint64_t demanded;
        struct wait *list;

        assert(slice && (slice->installing & mask) == mask);
        demanded = result < 0 ? slice_demanded(slice) & mask : 0;
        /* Before anybody else can have them, who may bring them. */
        if (leave_out)
                memory_leave_out(memory, index, mask & ~demanded);
        list = settle_locked(slice, mask & ~demanded, result);
        slice_put(shard, slice);
        shard_unlock(shard);
        count_in_flight(memory, -__builtin_popcountll(mask & ~demanded));
        *ret_demanded = demanded;
        return list;
}

struct wait *slice_settle(struct memory *memory, uint64_t index, uint64_t mask, int result) {
        struct slice_shard *shard = shard_lock(memory, index);
        struct slice *slice = slice_find(shard, index);
        struct wait *list;

        assert(slice && (slice->installing & mask) == mask);
        list = settle_locked(slice, mask, result);
        slice_put(shard, slice);
        shard_unlock(shard);
        count_in_flight(memory, -__builtin_popcountll(mask));
        return list;
}

struct wait *slice_poison(struct memory *memory, uint64_t index, uint64_t mask, int reason) {
        struct slice_shard *shard = shard_lock(memory, index);
        struct slice *slice = slice_find(shard, index);
        struct wait *list;

        assert(slice && (slice->installing & mask) == mask);
        memory_poison(memory, index, mask, reason);
        list = settle_locked(slice, mask, -EIO);
        slice_put(shard, slice);
        shard_unlock(shard);
        count_in_flight(memory, -__builtin_popcountll(mask));
        return list;
}

uint64_t slice_heal(struct memory *memory, uint64_t index, uint64_t mask) {
        struct slice_shard *shard = shard_lock(memory, index);
        const uint64_t healed = mask;

        mask &= memory_poison_mask(memory, index);
        clear_poison(memory, index, mask);
        memory_take_back(memory, index, healed);
        shard_unlock(shard);
        return mask;
}

bool slice_forget(struct wait *wait) {
        struct slice_shard *shard = shard_lock(wait->memory, wait->slice);
        struct slice *slice = slice_find(shard, wait->slice);
        bool found = false;

        if (slice && wait->mask) {
                wait->mask = 0;
                DL_DELETE(slice->waits, wait);
                slice_put(shard, slice);
                found = true;
        }
        shard_unlock(shard);
        return found;
}
