/* SPDX-License-Identifier: MIT */
/*
 * Every atomic access and every fence that crosses a process boundary, and nothing else.
 *
 * Each helper names its partner (what it pairs with), what breaks without it, and the switch of tests/model/ that
 * removes it. Code outside this header does not use atomics on shared objects.
 *
 * The words live in memory that another process can write at any time (see PROTOCOL.md, "who writes what"), so each
 * load here is a single access: what was validated is what is used.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/fence.h"

/* Store-load order. Nothing that ThreadSanitizer could find: the models' part. */
static inline void order_full_fence(void) {
        fence_full();
}

/* ---- presence map: written by the broker only ---- */

/* Publishes pages: their bytes are in the memfd. Pairs with order_present_load(): who sees the bit sees the bytes.
 * Without the release a reader can see the bit and stale bytes (tests/tsan shows it; model: install.pml NF_PUBLISH).
 * Returns the word before. */
static inline uint32_t order_present_publish(uint32_t *word, uint32_t mask) {
#ifdef PB_BREAK_PUBLISH_RELEASE /* tests only: shows that ThreadSanitizer notices */
        return __atomic_fetch_or(word, mask, __ATOMIC_RELAXED);
#else
        return __atomic_fetch_or(word, mask, __ATOMIC_RELEASE);
#endif
}

/* Pairs with order_present_publish() (model: install.pml NF_PRESENT_LOAD). The same load stands in client/pagebroker.h, for the inline fast path. */
static inline uint32_t order_present_load(const uint32_t *word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* Poison bits: the reason is fetched by message, so release/acquire here only orders poison before the outcome. The
 * broker clears a bit when it heals a page. */
static inline void order_poison_set(uint32_t *word, uint32_t mask) {
        __atomic_fetch_or(word, mask, __ATOMIC_RELEASE);
}

static inline void order_poison_clear(uint32_t *word, uint32_t mask) {
        __atomic_fetch_and(word, ~mask, __ATOMIC_RELEASE);
}

static inline uint32_t order_poison_load(const uint32_t *word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* The map is complete: set after the last bit, read instead of the bits. Same pairing as the bits. */
static inline void order_complete_set(uint32_t *word) {
        __atomic_store_n(word, 1, __ATOMIC_RELEASE);
}

static inline bool order_complete_load(const uint32_t *word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* ---- request slots: client pushes, broker takes ---- */

/*
 * Push: the slot's fields are written, then its ready bit, then the summary bit of the ready word (both release, both
 * read-modify-write: threads and an interrupting signal handler push side by side without a lock and without an
 * order between them; a push that never finishes holds its own slot and nothing else).
 * Pairs with order_request_take_summary() and order_request_take().
 * Model: request.pml, NO_READY_RELEASE (the broker reads a half-written slot), SUMMARY_FIRST (a request is lost).
 */
static inline void order_request_push(uint64_t *ready, uint64_t ready_bit, uint32_t *summary, uint32_t summary_bit) {
        __atomic_fetch_or(ready, ready_bit, __ATOMIC_RELEASE);
        __atomic_fetch_or(summary, summary_bit, __ATOMIC_RELEASE);
}

/* After a push and before order_doorbell_needed(). Pairs with order_arm_doorbell(): of "client: ready bit, then look
 * at the flag" and "broker: flag, then look at the ready bits" at least one side sees the other.
 * Without it both may miss: the broker sleeps on a pushed request (model: wake.pml NF_PUSH). */
static inline void order_after_push(void) {
        order_full_fence();
}

static inline bool order_doorbell_needed(const uint32_t *need) {
        return __atomic_load_n(need, __ATOMIC_RELAXED);
}

/* Broker, before it sleeps: asks for the doorbell; the caller re-checks every summary word afterwards.
 * Pairs with order_after_push() (model: wake.pml NF_ARM). */
static inline void order_arm_doorbell(uint32_t *need) {
        __atomic_store_n(need, 1, __ATOMIC_RELAXED);
}

static inline void order_after_arm(void) {
        order_full_fence();
}

static inline void order_disarm_doorbell(uint32_t *need) {
        __atomic_store_n(need, 0, __ATOMIC_RELAXED);
}

/* Broker: takes all summary bits, then all ready bits of each word (model: request.pml READY_TAKEN_FIRST,
 * NO_READY_ACQUIRE). Acquire pairs with order_request_push(). A bit
 * set between the two exchanges leaves its summary bit behind, so it is found next time; a summary bit whose ready
 * bit is gone already finds an empty word, which is fine. */
static inline uint32_t order_request_take_summary(uint32_t *summary) {
        if (__atomic_load_n(summary, __ATOMIC_RELAXED) == 0)
                return 0;
        return __atomic_exchange_n(summary, 0, __ATOMIC_ACQUIRE);
}

static inline bool order_request_is_pending(const uint32_t *summary) {
        return __atomic_load_n(summary, __ATOMIC_RELAXED) != 0;
}

static inline uint64_t order_request_take(uint64_t *ready) {
        return __atomic_exchange_n(ready, 0, __ATOMIC_ACQUIRE);
}

/* Fields of a slot: single relaxed accesses on both sides, ordered by the ready bit (push) and the outcome (reuse). The
 * broker reads each once (model: request.pml READ_TWICE). */
static inline uint64_t order_slot_load64(const uint64_t *field) {
        return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static inline uint32_t order_slot_load32(const uint32_t *field) {
        return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static inline void order_slot_store64(uint64_t *field, uint64_t value) {
        __atomic_store_n(field, value, __ATOMIC_RELAXED);
}

static inline void order_slot_store32(uint32_t *field, uint32_t value) {
        __atomic_store_n(field, value, __ATOMIC_RELAXED);
}

/* The sequence is written last and read first: whoever finds a new sequence finds the fields that belong to it, also when
 * the ready bit that made him look was one too many (set again after a restart; PROTOCOL.md, "Restart"). */
static inline void order_slot_store_sequence(uint32_t *field, uint32_t value) {
        __atomic_store_n(field, value, __ATOMIC_RELEASE);
}

static inline uint32_t order_slot_load_sequence(const uint32_t *field) {
        return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

/* ---- outcomes: broker writes, client reads ---- */

/* Everything that the outcome stands for (present bits, poison bits) came before. Pairs with order_outcome_load()
 * (model: request.pml NO_OUTCOME_RELEASE, NO_OUTCOME_ACQUIRE; of reuse: REUSE_EARLY, SAME_SEQUENCE). */
static inline void order_outcome_store(uint64_t *outcome, uint64_t value) {
        __atomic_store_n(outcome, value, __ATOMIC_RELEASE);
}

static inline uint64_t order_outcome_load(const uint64_t *outcome) {
        return __atomic_load_n(outcome, __ATOMIC_ACQUIRE);
}

/* Completion queue of slot numbers: the entry, then the tail (release). Pairs with order_completion_tail() (model:
 * completion.pml TAIL_FIRST, ENTRY_FIRST). */
static inline void order_completion_post(uint32_t *entry, uint32_t slot, uint32_t *tail, uint32_t next_tail) {
        __atomic_store_n(entry, slot, __ATOMIC_RELAXED);
        __atomic_store_n(tail, next_tail, __ATOMIC_RELEASE);
}

static inline uint32_t order_completion_tail(const uint32_t *tail) {
        return __atomic_load_n(tail, __ATOMIC_ACQUIRE);
}

static inline uint32_t order_completion_entry(const uint32_t *entry) {
        return __atomic_load_n(entry, __ATOMIC_RELAXED);
}

/* ---- event word and sleepers ---- */

/* Broker: the outcome is stored; change the word on which the session's waiters sleep, then look whether any sleeps.
 * The full fence pairs with order_sleepers_enter(): of "client: I sleep, then compare the word" (the kernel compares)
 * and "broker: change the word, then look for sleepers" at least one sees the other.
 * Without it a client sleeps until its slice ends (model: wake.pml EV_NF; the outcome after the bump: EV_BEFORE_OUTCOME). */
static inline bool order_event_bump(uint32_t *event, const uint32_t *sleepers) {
        __atomic_fetch_add(event, 1, __ATOMIC_RELEASE);
        order_full_fence();
        return __atomic_load_n(sleepers, __ATOMIC_RELAXED) != 0;
}

/* Client: loaded BEFORE presence, poison, outcome and epoch are tested; exactly this value goes to futex_waitv().
 * Loaded after the tests, an outcome between test and load is slept over (model: wake.pml EV_AFTER). */
static inline uint32_t order_event_load(const uint32_t *event) {
        return __atomic_load_n(event, __ATOMIC_ACQUIRE);
}

/* Client: counts itself as asleep before futex_waitv() compares. Pairs with order_event_bump() (model: wake.pml NF_SLEEP;
 * a flag instead of a count: SLEEPERS_FLAG). */
static inline void order_sleepers_enter(uint32_t *sleepers) {
        __atomic_fetch_add(sleepers, 1, __ATOMIC_SEQ_CST);
        order_full_fence();
}

static inline void order_sleepers_leave(uint32_t *sleepers) {
        __atomic_fetch_sub(sleepers, 1, __ATOMIC_RELEASE);
}

/* ---- hints: no order needed, a stale value costs time only ---- */

static inline void order_hint_store32(uint32_t *word, uint32_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline uint32_t order_hint_load32(const uint32_t *word) {
        return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void order_hint_store64(uint64_t *word, uint64_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline uint64_t order_hint_load64(const uint64_t *word) {
        return __atomic_load_n(word, __ATOMIC_RELAXED);
}

/* ---- source helpers: bits of slots ---- */

/* The slot's fields are written, then its bit. Pairs with order_helper_take(): without the release the other side could
 * read the fields of the slot's last use. */
static inline void order_helper_post(uint64_t *word, uint64_t bit) {
        __atomic_fetch_or(word, bit, __ATOMIC_RELEASE);
}

static inline uint64_t order_helper_take(uint64_t *word) {
        if (__atomic_load_n(word, __ATOMIC_RELAXED) == 0)
                return 0;
        return __atomic_exchange_n(word, 0, __ATOMIC_ACQUIRE);
}

static inline bool order_helper_is_pending(const uint64_t *word) {
        return __atomic_load_n(word, __ATOMIC_RELAXED) != 0;
}

/* The same in two steps: looked at, and cleared once what hangs on it has been written (release, for who looks in between). */
static inline uint64_t order_helper_peek(const uint64_t *word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void order_helper_clear(uint64_t *word, uint64_t bits) {
        __atomic_fetch_and(word, ~bits, __ATOMIC_RELEASE);
}

/* Whose slot it is: for a worker that starts after another one has crashed, at any moment of ours. It looks at `done` first
 * (order_helper_peek()), then here; we clear here first, then there. So it never takes what has been answered. */
static inline void order_helper_own(uint64_t *word, uint64_t bit, bool on) {
        if (on)
                __atomic_fetch_or(word, bit, __ATOMIC_RELEASE);
        else
                __atomic_fetch_and(word, ~bit, __ATOMIC_RELEASE);
}

static inline uint64_t order_helper_owned(const uint64_t *word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* A state, or a word of the map of zero pages: nothing else is read because of it. */
static inline void order_helper_store(uint32_t *word, uint32_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline uint32_t order_helper_load(const uint32_t *word) {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void order_helper_mark_zero(uint32_t *word, uint32_t mask) {
        __atomic_fetch_or(word, mask, __ATOMIC_RELEASE);
}
