/* SPDX-License-Identifier: MIT */
/* A peer's faults: read, asked for, answered. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/ledger.h"
#include "broker/memory.h"
#include "broker/pager.h"
#include "broker/peer-internal.h"
#include "common/alloc.h"
#include "common/clock.h"
#include "common/fence.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker read preadv2 clock_nanosleep */

static const struct peer_mapping *peer_find_mapping(const struct peer *peer, uint64_t address) {
        for (unsigned i = 0; i < peer->n_mappings; i++)
                if (address - peer->mappings[i].address < peer->mappings[i].length)
                        return &peer->mappings[i];
        return NULL;
}

/* Shown to whoever asks what this peer waits for. Only its thread writes. */
static void fault_note(struct peer_fault *fault) {
        struct peer *peer = fault->peer;
        const struct page_range range = { .memory = fault->memory, .first = fault->first_page,
                                          .count = peer_backing_pages(fault->memory) };

        tally_begin(peer->tally, CLASS_VCPU);
        for (unsigned i = 0; i < TALLY_PEER_NOTES && !fault->note; i++)
                if (atomic_load_explicit(&peer->notes[i].since_ns, memory_order_relaxed) == 0)
                        fault->note = &peer->notes[i];
        if (!fault->note)
                return;
        atomic_store_explicit(&fault->note->range, tally_pack(&range), memory_order_relaxed);
        atomic_store_explicit(&fault->note->error, 0, memory_order_relaxed);
        atomic_store_explicit(&fault->note->since_ns, fault->since_ns, memory_order_release);
}

void fault_unnote(struct peer_fault *fault, bool answered) {
        tally_end(fault->peer->tally, CLASS_VCPU, answered ? fault->since_ns : 0);
        if (!fault->note)
                return;
        atomic_store_explicit(&fault->note->since_ns, 0, memory_order_relaxed);
        fence_release(); /* before the next fault's words: tally_clear_slot() */
        fault->note = NULL;
}

void fault_free(struct peer_fault *fault, bool answered) {
        request_unlist(&fault->request);
        request_done(&fault->request);
        if (fault->marked)
                fault->peer->n_marked--;
        else {
                fault_unnote(fault, answered);
                fault->peer->n_faults--;
        }
        free(fault);
}

int peer_resolve(struct peer *peer, struct memory *memory, uint64_t first_page) {
        uint64_t n = peer_backing_pages(memory);
        int r;

        for (unsigned tries = 0; (r = peer_continue(peer, memory, first_page, n, n)) == -EAGAIN && tries < 1000; tries++)
                (void) usleep(100);
        if (r == -EAGAIN)
                /* It still changes its mappings: let the threads fault again rather than sleep for ever. */
                peer_wake(peer, memory, first_page, n);
        if (r == -ESRCH)
                peer_gone(peer, "its process has ended");
        return r;
}

static void fault_start(struct peer_fault *fault);

uint64_t fault_n_pages(const struct peer_fault *fault) {
        return min_u64(peer_backing_pages(fault->memory), fault->memory->n_pages - fault->first_page);
}

/* The first page of it that is poisoned; UINT64_MAX if none is. */
static uint64_t fault_poisoned_page(const struct peer_fault *fault) {
        uint64_t last = fault->first_page + fault_n_pages(fault) - 1;

        for (uint64_t page = fault->first_page; page <= last; page = (page | (SLICE_PAGES - 1)) + 1) {
                uint64_t mask = memory_poison_mask(fault->memory, slice_of(page)) &
                                slice_mask(page, min_u64(page | (SLICE_PAGES - 1), last));

                if (mask)
                        return slice_of(page) * SLICE_PAGES + (unsigned) __builtin_ctzll(mask);
        }
        return UINT64_MAX;
}

static bool fault_is_poisoned(const struct peer_fault *fault) {
        return fault_poisoned_page(fault) != UINT64_MAX;
}

/* --on-error */
static void fault_lost(struct peer_fault *fault) {
        struct pager *pager = fault->peer->pager;

        if (pager->options.on_error == ON_ERROR_POISON)
                fault_mark(fault);
        else if (pager->options.on_error == ON_ERROR_STOP && pager->events.page_lost && fault_is_poisoned(fault))
                pager->events.page_lost(pager->events.data, fault->memory, fault_poisoned_page(fault));
}

static void fault_complete(struct request *request, int result) {
        struct peer_fault *fault = CONTAINER_OF(request, struct peer_fault, request);
        struct peer *peer = fault->peer;

        DL_DELETE(peer->faults, fault);
        if (result == 0) {
                int r = peer_resolve(peer, fault->memory, fault->first_page);

                /* A thread has been woken, and faults again. Who meets a mark does not: it must go. */
                if (r == 0 || r == -ESRCH || !fault->marked) {
                        fault_leave_mark(fault);
                        fault_free(fault, true);
                        return;
                }
        }
        /* Nobody ever gets zeros instead of data (invariant 10): the thread keeps waiting, if nothing else was wished. Out of
         * memory is not the source's failure, and passes. */
        request_done(request);
        if (fault->note)
                atomic_store_explicit(&fault->note->error, result, memory_order_relaxed);
        fault->again_us = clock_now_us() + FAULT_AGAIN_US;
        DL_APPEND(peer->failed, fault);
        if (result == -EIO)
                fault_lost(fault);
}

static void fault_more(struct request *request) {
        struct peer_fault *fault = CONTAINER_OF(request, struct peer_fault, request);

        request_list(&fault->peer->ready, request);
}

static void fault_forgotten(struct request *request) {
        struct peer_fault *fault = CONTAINER_OF(request, struct peer_fault, request);

        DL_DELETE(fault->peer->faults, fault);
        fault_free(fault, false);
}

static const struct request_ops fault_ops = {
        .complete = fault_complete,
        .more = fault_more,
        .forgotten = fault_forgotten,
};

static void fault_issue(struct peer_fault *fault) {
        enum request_step step = request_issue(fault->peer->pager, &fault->request, REQUEST_WINDOW_MAX);

        if (step == REQUEST_MORE)
                fault_more(&fault->request);
        else if (step == REQUEST_DECIDED)
                fault_complete(&fault->request, request_result(&fault->request));
}

static void fault_start(struct peer_fault *fault) {
        struct peer *peer = fault->peer;
        unsigned window;

        memset(&fault->request, 0, sizeof fault->request);
        fault->request.origin = &peer->origin;
        fault->request.n_ranges = 1;
        fault->request.ranges[0] = (struct page_range) {
                .memory = fault->memory,
                .first = fault->first_page,
                .count = fault_n_pages(fault),
        };
        window = request_count_slices(&fault->request, REQUEST_WINDOW_MAX);
        DL_APPEND(peer->faults, fault);
        if (request_init(&fault->request, &peer->driver, CLASS_VCPU, window, &fault_ops) < 0)
                fault_complete(&fault->request, -ENOMEM);
        else
                fault_issue(fault);
}

static struct peer_fault *find_fault(struct peer_fault *list, const struct memory *memory, uint64_t first_page) {
        struct peer_fault *fault;

        DL_FOREACH (list, fault)
                if (fault->memory == memory && fault->first_page == first_page)
                        return fault;
        return NULL;
}

/* Is the page asked for already? The answer to the first fault wakes every thread that waits on it. */
static bool peer_is_waiting_for(const struct peer *peer, const struct memory *memory, uint64_t first_page) {
        struct peer_fault *fault;

        if (find_fault(peer->faults, memory, first_page))
                return true;
        fault = find_fault(peer->failed, memory, first_page);
        /* The mark was zapped (MADV_DONTNEED), or this one came before it. */
        if (fault && fault->marked && fault_is_poisoned(fault))
                fault_mark(fault);
        return fault;
}

static void peer_note_around(struct peer *peer, struct memory *memory, uint64_t page) {
        uint64_t first = align_down(page, peer->fault_around);
        uint64_t last = min_u64(first + peer->fault_around, memory->n_pages) - 1;

        if (peer->fault_around <= 1 || memory->backing_size > PB_PAGE_BYTES)
                return;
        if (peer->n_around == PEER_AROUND_MAX)
                peer->n_around = 0; /* under so many faults neighbours are no longer a kindness */
        peer->around[peer->n_around++] = (struct peer_hint) {
                .memory = memory,
                .slice = slice_of(first),
                .mask = slice_mask(first, last),
        };
}

static void peer_fault(struct peer *peer, uint64_t address, uint64_t now_ns) {
        const struct peer_mapping *mapping = peer_find_mapping(peer, address);
        struct peer_fault *fault;
        struct memory *memory;
        uint64_t page, first;

        atomic_fetch_add_explicit(&peer->pager->faults_peer, 1, memory_order_relaxed);
        if (!mapping)
                return; /* registered behind our back, or unmapped meanwhile: nothing that we could answer for */
        memory = mapping->memory;
        page = (mapping->offset + (address - mapping->address)) / PB_PAGE_BYTES;
        first = align_down(page, peer_backing_pages(memory));
        peer_note_around(peer, memory, page);
        tally_take(peer->tally, CLASS_VCPU);
        if (memory_is_present(memory, first, min_u64(peer_backing_pages(memory), memory->n_pages - first))) {
                peer_resolve(peer, memory, first);
                tally_answered(peer->tally, CLASS_VCPU, now_ns);
                return;
        }
        if (peer_is_waiting_for(peer, memory, first))
                return;
        fault = alloc_zeroed(sizeof *fault);
        if (!fault) {
                peer_wake(peer, memory, first, peer_backing_pages(memory)); /* it faults again */
                return;
        }
        fault->peer = peer;
        fault->memory = memory;
        fault->first_page = first;
        fault->since_ns = now_ns;
        fault->mark_place = LEDGER_MARKS_MAX;
        peer->n_faults++;
        fault_note(fault);
        fault_start(fault);
}

/* RWF_NOWAIT where the kernel has it for userfaultfd: the peer may have cleared O_NONBLOCK. Elsewhere a plain read after
 * poll(), which at worst hangs this thread, and this thread serves nobody else. */
static ssize_t read_faults(struct peer *peer, struct uffd_msg *messages, size_t size) {
        struct iovec iov = { .iov_base = messages, .iov_len = size };
        ssize_t n = preadv2(peer->uffd, &iov, 1, -1, RWF_NOWAIT);

        if (n < 0 && errno == EOPNOTSUPP)
                n = read(peer->uffd, messages, size);
        return n < 0 ? -errno : n;
}

bool peer_read_faults(struct peer *peer) {
        struct uffd_msg messages[16];
        uint64_t now_ns;
        ssize_t n;

        if (peer->n_faults >= PEER_FAULTS_MAX || peer_is_dead(peer))
                return false;
        n = read_faults(peer, messages, sizeof messages);
        now_ns = n > 0 ? clock_now_ns() : 0;
        if (n < 0 && n != -EAGAIN && n != -EINTR)
                peer_gone(peer, strerror((int) -n));
        for (ssize_t i = 0; i < n / (ssize_t) sizeof messages[0]; i++)
                if (messages[i].event == UFFD_EVENT_PAGEFAULT)
                        peer_fault(peer, messages[i].arg.pagefault.address, now_ns);
        return n > 0;
}

bool peer_ask_again(struct peer *peer) {
        uint64_t now_us = clock_now_us();
        struct peer_fault *fault, *next;
        bool any = false, healed = atomic_exchange(&peer->healed, false);
        struct peer_fault *last = peer->failed ? peer->failed->prev : NULL;

        /* Up to what is the last one now: who fails again at once is appended. */
        for (fault = peer->failed; fault; fault = fault == last ? NULL : next) {
                next = fault->next;
                if (now_us < fault->again_us && !healed)
                        continue;
                if (fault_is_poisoned(fault)) {
                        fault->again_us = now_us + FAULT_AGAIN_US;
                        continue;
                }
                DL_DELETE(peer->failed, fault);
                fault_start(fault);
                any = true;
        }
        return any;
}

bool peer_run_inbox(struct peer *peer) {
        struct request *request = driver_take(&peer->driver), *next;
        bool any = request;

        for (; request; request = next) {
                next = request->inbox_next;
                request_resume(request);
        }
        while ((request = peer->ready)) {
                request_unlist(request);
                fault_issue(CONTAINER_OF(request, struct peer_fault, request));
                any = true;
        }
        return any;
}

void peer_forget_failed(struct peer *peer, const struct memory *memory) {
        struct peer_fault *fault, *next;

        DL_FOREACH_SAFE (peer->failed, fault, next)
                if (fault->memory == memory) {
                        DL_DELETE(peer->failed, fault);
                        fault_leave_mark(fault);
                        fault_free(fault, false);
                }
}

void peer_forget_faults(struct peer *peer) {
        struct peer_fault *fault, *next;

        DL_FOREACH_SAFE (peer->faults, fault, next) {
                request_unlist(&fault->request);
                if (request_forget(&fault->request))
                        fault_forgotten(&fault->request);
        }
        DL_FOREACH_SAFE (peer->failed, fault, next) {
                DL_DELETE(peer->failed, fault);
                fault_free(fault, false);
        }
        /* The rest is on its way into the inbox by the hand of a thread that publishes now. */
        while (peer->faults) {
                (void) peer_run_inbox(peer);
                (void) usleep(100);
        }
}
