/* SPDX-License-Identifier: MIT */
#include "broker/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "broker/kill-point.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/tally.h"
#include "common/alloc.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/futex.h"
#include "common/macro.h"
#include "protocol/order.h"

/* #syscalls:broker sendto */

struct session_request {
        struct request request;
        struct session *session;
        uint32_t slot;
        uint32_t sequence;
        uint64_t since_ns; /* taken out of the ring */
        uint8_t op;
        bool async;
        bool started; /* request_init() was called, n_waits charged */
        struct session_request *prev, *next; /* session->prefetches */
};

static struct session_request *of_request(struct request *request) {
        return CONTAINER_OF(request, struct session_request, request);
}

/* ---- outcomes ---- */

static void session_event(struct session *session) {
        if (order_event_bump(&session->state->event, &session->ring->sleepers))
                (void) futex_wake_all(&session->state->event);
}

static void session_outcome(struct session *session, uint32_t slot, uint32_t sequence, int result, bool async) {
        struct pb_session_state *state = session->state;

        KILL_POINT("decided");
        order_outcome_store(&state->outcome[slot], outcome_make(sequence, result));
        KILL_POINT("outcome");
        if (async) {
                uint32_t tail = order_hint_load32(&state->completion_tail);

                /* Cannot overtake an honest reader: a slot has one entry at most. A dishonest one loses its own. */
                order_completion_post(&state->completions[tail % PB_RING_SLOTS], slot, &state->completion_tail, tail + 1);
                session->announce = true;
        }
        session_event(session);
}

void session_announce(struct session *session) {
        if (!session->announce)
                return;
        session->announce = false;
        /* EAGAIN: the client has unread bytes, so its end polls readable anyway. EPIPE: it is about to be closed. */
        (void) send(session->completion, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- requests ---- */

static void session_start_backlog(struct session *session);

static bool is_counted(const struct session_request *sr) {
        return sr->op != PB_SLOT_DISCARD;
}

static enum request_class class_of(const struct session_request *sr) {
        return sr->op == PB_SLOT_PREFETCH ? CLASS_PREFETCH : CLASS_DEVICE;
}

static void session_count_begin(struct session_request *sr) {
        if (!is_counted(sr))
                return;
        sr->since_ns = clock_now_ns();
        tally_take(sr->session->tally, class_of(sr));
        tally_begin(sr->session->tally, class_of(sr));
        if (sr->op == PB_SLOT_ENSURE)
                tally_note_slot(sr->session->tally, sr->slot, &sr->request, sr->since_ns);
}

/* Once for each begin: with the request. `answered` false: it is forgotten. */
static void session_count_end(const struct session_request *sr, bool answered) {
        if (!is_counted(sr))
                return;
        if (sr->op == PB_SLOT_ENSURE)
                tally_clear_slot(sr->session->tally, sr->slot);
        tally_end(sr->session->tally, class_of(sr), answered ? sr->since_ns : 0);
}

static void session_request_free(struct session_request *sr) {
        struct session *session = sr->session;

        request_unlist(&sr->request);
        if (sr->started) {
                session->n_waits -= sr->request.window;
                session->n_started--;
                request_done(&sr->request);
        }
        if (sr->op == PB_SLOT_PREFETCH) {
                DL_DELETE(session->prefetches, sr);
                session->n_prefetches--;
        } else
                session->slots[sr->slot] = NULL;
        free(sr);
}

static void session_request_complete(struct request *request, int result) {
        struct session_request *sr = of_request(request);
        struct session *session = sr->session;
        bool answered = sr->op == PB_SLOT_PREFETCH, async = sr->async;
        uint32_t slot = sr->slot, sequence = sr->sequence;

        if (sr->op == PB_SLOT_DISCARD && result == 0) {
                /* Nobody can fetch these pages any more. The slot stays taken until the punch is over. */
                pager_punch(session->pager, session->id, slot, sequence, request->ranges, request->n_ranges);
                return;
        }
        session_count_end(sr, true);
        session_request_free(sr);
        if (!answered)
                session_outcome(session, slot, sequence, result, async);
        session_start_backlog(session);
}

static void session_request_more(struct request *request) {
        struct session *session = of_request(request)->session;

        if (request->class == CLASS_PREFETCH)
                request_list(pager_prefetch_list(session->pager), request);
        else
                request_list(&session->ready, request);
}

static void session_request_forgotten(struct request *request) {
        session_count_end(of_request(request), false);
        session_request_free(of_request(request));
}

static const struct request_ops session_request_ops = {
        .complete = session_request_complete,
        .more = session_request_more,
        .forgotten = session_request_forgotten,
};

/* Slices that one request has in flight at most. */
#define DEMAND_WINDOW 16u
#define PREFETCH_WINDOW 32u

static void session_start(struct session_request *sr, unsigned window) {
        struct session *session = sr->session;
        int r = request_init(&sr->request, pager_driver(session->pager), class_of(sr), window, &session_request_ops);

        if (r < 0) {
                session_request_complete(&sr->request, r);
                return;
        }
        sr->started = true;
        session->n_waits += window;
        session->n_started++;
        session_request_more(&sr->request);
}

static bool session_may_start(const struct session *session, unsigned window) {
        return session->n_waits == 0 || (session->n_started < session->limits.requests &&
                                         session->n_waits + window <= session->limits.slices);
}

static void session_start_backlog(struct session *session) {
        while (session->backlog && !session->closed) {
                struct request *request = session->backlog;
                unsigned window = request_count_slices(request, DEMAND_WINDOW);

                if (!session_may_start(session, window))
                        return;
                request_unlist(request);
                session->n_backlog--;
                session_start(of_request(request), window);
        }
}

static int copy_range(const struct session *session, uint8_t op, const struct pb_slot_range *shared,
                      struct page_range *ret) {
        uint64_t first = order_slot_load64(&shared->first_page), n = order_slot_load64(&shared->n_pages);
        uint32_t index = order_slot_load32(&shared->memory), intent = order_slot_load32(&shared->intent);
        struct memory *memory;

        if (op == PB_SLOT_ENSURE) {
                if (intent < PB_INTENT_READ || intent > PB_INTENT_OVERWRITE)
                        return -EINVAL;
                if (intent != PB_INTENT_READ && session->role == PB_AS_DEVICE_RO)
                        return -EACCES;
        } else if (intent != 0)
                return -EINVAL;
        memory = pager_get_memory(session->pager, index);
        if (!memory || atomic_load_explicit(&memory->hidden, memory_order_relaxed) ||
            !range_fits(first, n, memory->n_pages))
                return -EFAULT;
        if (n == 0)
                return -EINVAL;
        *ret = (struct page_range) {
                .memory = memory,
                .first = first,
                .count = n,
                .overwrite = op == PB_SLOT_DISCARD || intent == PB_INTENT_OVERWRITE,
        };
        return 0;
}

/* What one push says, copied out of the client's reach. */
struct push {
        uint32_t slot;
        uint32_t sequence;
        uint8_t op;
        uint8_t flags;
        uint16_t n_ranges;
        bool is_padded; /* with zeros, as it must be */
        const struct pb_slot *shared;
};

/* 1: under way. 0 or a negative errno: that is the outcome. */
static int session_accept(struct session *session, const struct push *push) {
        bool prefetch = push->op == PB_SLOT_PREFETCH, absent = push->op == PB_SLOT_DISCARD;
        _cleanup_free_ struct session_request *sr = NULL;
        unsigned window;

        if (push->op < PB_SLOT_ENSURE || push->op > PB_SLOT_DISCARD || push->flags & ~PB_SLOT_ASYNC ||
            push->n_ranges == 0 || push->n_ranges > PB_SLOT_RANGES || !push->is_padded || push->sequence == 0)
                return -EINVAL;
        if (push->op == PB_SLOT_DISCARD && session->role != PB_AS_VMM)
                return -EACCES;
        if (prefetch && session->n_prefetches >= SESSION_PREFETCHES_MAX)
                return -EAGAIN;
        sr = alloc_zeroed(sizeof *sr);
        if (!sr)
                return -ENOMEM;
        *sr = (struct session_request) {
                .session = session,
                .slot = push->slot,
                .sequence = push->sequence,
                .op = push->op,
                .async = push->flags & PB_SLOT_ASYNC,
        };
        for (unsigned i = 0; i < push->n_ranges; i++) {
                struct page_range *range = &sr->request.ranges[i];
                int r = copy_range(session, push->op, &push->shared->ranges[i], range);

                if (r < 0)
                        return r;
                /* Long ranges are looked at piecemeal when they are issued. */
                absent = absent || range->count > SLICE_PAGES ||
                         !memory_is_present(range->memory, range->first, range->count);
        }
        if (!absent)
                return 0;
        sr->request.n_ranges = push->n_ranges;
        sr->request.best_effort = prefetch;
        sr->request.origin = push->op == PB_SLOT_ENSURE ? &session->origin : NULL;
        window = request_count_slices(&sr->request, prefetch ? PREFETCH_WINDOW : DEMAND_WINDOW);
        if (prefetch) {
                if (!session_may_start(session, window))
                        return -EAGAIN;
                DL_APPEND(session->prefetches, sr);
                session->n_prefetches++;
                session_count_begin(sr);
                session_start(PTR_TAKE(sr), window);
                return 0;
        }
        session->slots[push->slot] = sr;
        session_count_begin(sr);
        atomic_fetch_add_explicit(&session->faults, 1, memory_order_relaxed);
        pager_count_fault(session->pager);
        if (session->backlog || !session_may_start(session, window)) {
                request_list(&session->backlog, &sr->request);
                session->n_backlog++;
                if (session->n_held_back++ == 0)
                        session_log_held_back(session);
        } else
                session_start(sr, window);
        sr = NULL;
        return 1;
}

static void session_take_slot(struct session *session, uint32_t slot) {
        const struct pb_slot *shared = &session->ring->slots[slot];
        struct push push = { .slot = slot, .shared = shared };
        struct pb_slot head;
        int r;

        /* Read once: what is validated is what is used, whatever the client writes meanwhile. */
        push.sequence = order_slot_load_sequence(&shared->sequence);
        /* Taken before, perhaps done before: a client that resumes its session sets ready bits that may still be set. */
        if (push.sequence == outcome_sequence(order_outcome_load(&session->state->outcome[slot])))
                return;
        if (push.sequence == 0) /* being written: the same may hit the slot's next use */
                return;
        if (session->slots[slot]) {
                session->violation = "pushed a slot whose request is still under way";
                return;
        }
        head.head = order_slot_load32(&shared->head);
        push.op = head.op;
        push.flags = head.flags;
        push.n_ranges = head.n_ranges;
        push.is_padded = order_slot_load64(&shared->padding) == 0;
        order_outcome_store(&session->state->outcome[slot], outcome_make(push.sequence, PB_OUTCOME_TAKEN));
        KILL_POINT("taken");
        r = session_accept(session, &push);
        if (r <= 0)
                session_outcome(session, slot, push.sequence, r, push.flags & PB_SLOT_ASYNC);
}

bool session_is_pending(const struct session *session) {
        return !session->closed && !session->violation && order_request_is_pending(&session->ring->summary);
}

bool session_take(struct session *session) {
        uint32_t summary;
        bool any = false;

        if (session->closed || session->violation)
                return false;
        summary = order_request_take_summary(&session->ring->summary);
        for (; summary && !session->violation; summary &= summary - 1) {
                unsigned word = (unsigned) __builtin_ctz(summary);
                uint64_t ready;

                if (word >= PB_RING_READY_WORDS) {
                        session->violation = "set a summary bit that stands for nothing";
                        break;
                }
                ready = order_request_take(&session->ring->ready[word]);
                for (; ready && !session->violation; ready &= ready - 1) {
                        session_take_slot(session, word * 64 + (unsigned) __builtin_ctzll(ready));
                        any = true;
                }
        }
        return any;
}

/* So much of one request before the next one's turn. */
#define ISSUE_SLICES 8u

bool session_issue(struct session *session) {
        struct request *request = session->ready;
        enum request_step step;

        if (!request)
                return false;
        request_unlist(request);
        step = request_issue(session->pager, request, ISSUE_SLICES);
        if (step == REQUEST_MORE)
                request_list(&session->ready, request);
        else if (step == REQUEST_DECIDED)
                session_request_complete(request, request_result(request));
        return true;
}

void session_discard_done(struct session *session, uint32_t slot, uint32_t sequence, int result) {
        struct session_request *sr = session->slots[slot];

        if (session->closed || !sr || sr->sequence != sequence || sr->op != PB_SLOT_DISCARD)
                return;
        bool async = sr->async;

        session_request_free(sr);
        session_outcome(session, slot, sequence, result, async);
        session_start_backlog(session);
}

void session_get_usage(const struct session *session, struct session_usage *ret) {
        *ret = (struct session_usage) {
                .requests = atomic_load_explicit(&session->n_started, memory_order_relaxed),
                .slices = atomic_load_explicit(&session->n_waits, memory_order_relaxed),
                .waiting = atomic_load_explicit(&session->n_backlog, memory_order_relaxed),
                .held_back = atomic_load_explicit(&session->n_held_back, memory_order_relaxed),
        };
}

/* ---- life ---- */

void session_wake(struct session *session) {
        session_event(session);
}

static void session_forget(struct session_request *sr) {
        request_unlist(&sr->request);
        if (!sr->started || request_forget(&sr->request))
                session_request_forgotten(&sr->request);
}

void session_close(struct session *session) {
        const struct request *waiting[PB_RING_SLOTS];
        struct session_request *sr, *next;
        unsigned n_waiting = 0;

        session->closed = true;
        for (unsigned slot = 0; slot < PB_RING_SLOTS; slot++)
                if (session->slots[slot] && session->slots[slot]->op == PB_SLOT_ENSURE)
                        waiting[n_waiting++] = &session->slots[slot]->request;
        session_log_left(session, waiting, n_waiting);
        for (unsigned slot = 0; slot < PB_RING_SLOTS; slot++)
                if (session->slots[slot])
                        session_forget(session->slots[slot]);
        DL_FOREACH_SAFE (session->prefetches, sr, next)
                session_forget(sr);
        order_hint_store32(&session->state->closed, 1);
        session_event(session);
}

bool session_is_drained(const struct session *session) {
        for (unsigned slot = 0; slot < PB_RING_SLOTS; slot++)
                if (session->slots[slot])
                        return false;
        return !session->prefetches;
}
