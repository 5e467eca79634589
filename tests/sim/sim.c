/* SPDX-License-Identifier: MIT */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "broker/fetch.h"
#include "broker/order-background.h"
#include "common/clock.h"
#include "common/macro.h"
#include "protocol/presence.h"

enum page_state {
        ABSENT,
        QUEUED,
        READING,
        PRESENT
};

struct page {
        uint32_t ticket; /* of the fetch it is queued for */
        uint8_t state;
        uint8_t n_reads;
        bool background; /* queued for nobody who waits */
};

struct client {
        size_t next;      /* its next wish, as an index of all; n_wishes: none */
        size_t wish;      /* under way */
        uint64_t missing; /* pages of it; 0: it thinks */
        uint64_t at_us;   /* when it thought of it; when it will */
};

/* A read under way. */
struct under_way {
        struct fetch *fetch;
        size_t read; /* in the result */
};

#define WINDOW_MAX 256u
#define AROUND_MAX 64u

struct sim {
        const struct sim_trace *trace;
        const struct sim_options *options;
        struct sim_result *result;
        uint64_t now_us, free_us; /* the source has nothing to do from then on */
        struct page *pages;
        struct client *clients;
        struct driver driver;
        struct fetch_queue queue;
        struct order_link link;
        struct order_locality locality;
        struct order_background background;
        struct order_rate rate;
        struct under_way under_way[WINDOW_MAX];
        unsigned n_under_way, n_demand_queued;
        uint64_t fill_page, rate_due_us;
        uint64_t around[AROUND_MAX]; /* slices */
        unsigned n_around;
        uint64_t background_us; /* when a background read that waits for its share may begin */
        unsigned n_ended;       /* clients */
        size_t max_reads;
};

static void *grow(void *array, size_t n, size_t *max, size_t size) {
        if (n < *max)
                return array;
        *max = *max ? 2 * *max : 1024;
        array = reallocarray(array, *max, size);
        assert(array);
        return array;
}

/* ---- claims ---- */

/* Queues a read of what of [first, last], within one slice, is absent; a demand also takes what is queued for nobody. */
static bool claim(struct sim *sim, uint64_t first, uint64_t last, enum request_class class, uint64_t owner) {
        uint64_t mask = 0, slice = slice_of(first);
        struct fetch *fetch;

        for (uint64_t page = first; page <= last; page++) {
                const struct page *p = &sim->pages[page];

                if (p->state == ABSENT || (p->state == QUEUED && p->background && class_is_demand(class)))
                        mask |= 1ull << (page % SLICE_PAGES);
        }
        if (!mask)
                return false;
        fetch = fetch_new(&sim->queue, NULL, slice, mask, class, 0);
        assert(fetch);
        fetch->owner = owner;
        for (; mask; mask &= mask - 1)
                sim->pages[slice * SLICE_PAGES + (unsigned) __builtin_ctzll(mask)] = (struct page) {
                        .ticket = fetch->ticket, .state = QUEUED, .background = !class_is_demand(class)
                };
        sim->n_demand_queued += class_is_demand(class);
        fetch_enqueue(fetch);
        return true;
}

static void wish(struct sim *sim, unsigned index) {
        struct client *client = &sim->clients[index];
        const struct sim_wish *w = &sim->trace->wishes[client->next];
        uint64_t end = w->first + w->count;

        client->wish = client->next;
        client->missing = 0;
        for (uint64_t page = w->first; page < end; page++)
                client->missing += sim->pages[page].state != PRESENT;
        for (uint64_t page = w->first; page < end; page = (page | (SLICE_PAGES - 1)) + 1)
                (void) claim(sim, page, min_u64(page | (SLICE_PAGES - 1), end - 1), sim->trace->clients[index].class,
                             index + 1);
}

static void next_wish(struct sim *sim, unsigned index, size_t from) {
        struct client *client = &sim->clients[index];

        client->next = from;
        while (client->next < sim->trace->n_wishes && sim->trace->wishes[client->next].client != index)
                client->next++;
        if (client->next < sim->trace->n_wishes)
                client->at_us = sim->now_us + sim->trace->wishes[client->next].think_us;
        else {
                sim->result->client_ended_us[index] = sim->now_us;
                sim->n_ended++;
        }
}

/* Whoever has all that it wished goes on. */
static bool step_clients(struct sim *sim) {
        bool any = false;

        for (unsigned i = 0; i < sim->trace->n_clients; i++) {
                struct client *client = &sim->clients[i];

                while (client->next < sim->trace->n_wishes && client->at_us <= sim->now_us &&
                       client->wish != client->next) {
                        wish(sim, i);
                        any = true;
                        if (client->missing == 0)
                                next_wish(sim, i, client->next + 1); /* it did not have to wait */
                }
        }
        return any;
}

/* ---- reads ---- */

static uint64_t source_due(struct sim *sim, const struct fetch *fetch) {
        bool demand = class_is_demand(fetch->class);
        unsigned window = sim->options->source->window;

        if (!demand) {
                uint64_t due_us = order_background_due(&sim->background, fetch->class, fetch_n_pages(fetch),
                                                       sim->now_us, sim->options->fill_share);

                if (due_us)
                        return due_us;
        }
        return sim->n_under_way < (demand ? window : (window + 1) / 2) ? 0 : UINT64_MAX;
}

static bool has_room(struct fetch *fetch, void *data) {
        struct sim *sim = data;
        uint64_t due_us = source_due(sim, fetch);

        if (due_us)
                sim->background_us = min_u64(sim->background_us, due_us);
        return due_us == 0;
}

/* Neighbours, as pager_around(). */
static uint64_t take_around(struct sim *sim, const struct fetch *fetch) {
        uint64_t page = fetch_first_page(fetch), begin, end, mask = 0;
        unsigned window;

        if (sim->options->around <= 1)
                return 0;
        window = order_locality_note(&sim->locality, page,
                                     (unsigned) min_u64(order_link_around(&sim->link), sim->options->around));
        begin = align_down(page, window);
        end = min_u64(begin + window, sim->trace->n_pages);
        for (uint64_t slice = slice_of(begin); slice <= slice_of(end - 1); slice++)
                if (slice != fetch->slice && sim->n_around < AROUND_MAX)
                        sim->around[sim->n_around++] = slice;
        begin = max_u64(begin, fetch->slice * SLICE_PAGES);
        end = min_u64(end, (fetch->slice + 1) * SLICE_PAGES);
        for (uint64_t p = begin; p < end; p++)
                if (sim->pages[p].state < READING)
                        mask |= 1ull << (p % SLICE_PAGES);
        return mask & ~fetch->mask;
}

static uint64_t still_queued(const struct sim *sim, const struct fetch *fetch) {
        uint64_t mask = 0;

        for (uint64_t m = fetch->mask; m; m &= m - 1) {
                const struct page *page = &sim->pages[fetch->slice * SLICE_PAGES + (unsigned) __builtin_ctzll(m)];

                if (page->state == QUEUED && page->ticket == fetch->ticket)
                        mask |= m & -m;
        }
        return mask;
}

/* Of the service that background reads have before one that is sent now. */
static uint64_t count_ahead(const struct sim *sim, uint64_t arrives_us) {
        uint64_t ahead_us = 0;

        for (unsigned i = 0; i < sim->n_under_way; i++) {
                const struct sim_read *read = &sim->result->reads[sim->under_way[i].read];

                if (!class_is_demand(read->class) && read->ended_us > max_u64(read->served_us, arrives_us))
                        ahead_us += read->ended_us - max_u64(read->served_us, arrives_us);
        }
        return ahead_us;
}

static void start_read(struct sim *sim, struct fetch *fetch) {
        const struct sim_source *source = sim->options->source;
        bool demand = class_is_demand(fetch->class);
        uint64_t wanted = still_queued(sim, fetch), arrives_us = sim->now_us + source->latency_us;
        struct sim_read *read;

        sim->n_demand_queued -= demand;
        if (!wanted) {
                (void) fetch_free(fetch);
                return;
        }
        sim->result->inversions += !demand && sim->n_demand_queued > 0;
        fetch_set_mask(fetch, wanted | (demand ? take_around(sim, fetch) : 0));
        for (uint64_t m = fetch->mask; m; m &= m - 1) {
                struct page *page = &sim->pages[fetch->slice * SLICE_PAGES + (unsigned) __builtin_ctzll(m)];

                page->state = READING;
                sim->result->pages_read_twice += page->n_reads++ > 0;
                sim->result->pages_read++;
        }
        sim->result->reads =
                grow(sim->result->reads, sim->result->n_reads, &sim->max_reads, sizeof *sim->result->reads);
        read = &sim->result->reads[sim->result->n_reads];
        *read = (struct sim_read) {
                .begun_us = sim->now_us,
                .served_us = max_u64(sim->free_us, arrives_us),
                .first = fetch_first_page(fetch),
                .n = fetch_n_pages(fetch),
                .class = fetch->class,
                .owner = fetch->owner,
                .ahead_us = count_ahead(sim, arrives_us),
        };
        read->ended_us = sim->free_us = read->served_us + max_u64(read->n * PB_PAGE_BYTES / source->bytes_per_us, 1);
        fetch->begun_us = sim->now_us;
        sim->under_way[sim->n_under_way++] = (struct under_way) { fetch, sim->result->n_reads++ };
        if (demand) {
                order_demand_begin(&sim->background, sim->now_us);
                sim->result->demand_pages += (unsigned) __builtin_popcountll(wanted);
                sim->result->around_pages += (unsigned) __builtin_popcountll(fetch->mask & ~wanted);
                if (fetch->owner && sim->n_ended == 0)
                        sim->result->client_served[fetch->owner - 1] += (unsigned) __builtin_popcountll(wanted);
        } else
                order_background_begin(&sim->background, read->n);
        sim->result->extent_max = (unsigned) max_u64(sim->result->extent_max, sim->background.n);
        sim->result->background_max =
                (unsigned) max_u64(sim->result->background_max, sim->background.n + sim->background.n_short);
}

static bool start_reads(struct sim *sim) {
        struct fetch *fetch;
        bool any = false;

        sim->background_us = UINT64_MAX;
        while (sim->n_under_way < sim->options->source->window && (fetch = fetch_dequeue(&sim->queue, has_room, sim))) {
                start_read(sim, fetch);
                any = true;
        }
        return any;
}

static void arrive(struct sim *sim, uint64_t page) {
        sim->pages[page].state = PRESENT;
        for (unsigned i = 0; i < sim->trace->n_clients; i++) {
                struct client *client = &sim->clients[i];
                const struct sim_wish *w = &sim->trace->wishes[client->wish];
                enum request_class class = sim->trace->clients[i].class;

                if (client->missing == 0 || page < w->first || page >= w->first + w->count || --client->missing > 0)
                        continue;
                sim->result->wait_us[class][sim->result->n_waits[class]++] = sim->now_us - client->at_us;
                next_wish(sim, i, client->wish + 1);
        }
}

static bool end_reads(struct sim *sim) {
        bool any = false;

        for (unsigned i = 0; i < sim->n_under_way;) {
                struct fetch *fetch = sim->under_way[i].fetch;
                const struct sim_read *read = &sim->result->reads[sim->under_way[i].read];

                if (read->ended_us > sim->now_us) {
                        i++;
                        continue;
                }
                any = true;
                order_link_note(&sim->link, read->n, sim->now_us - read->begun_us);
                if (class_is_demand(read->class))
                        order_demand_end(&sim->background, sim->now_us);
                else
                        order_background_end(&sim->background, read->class, read->n, true, sim->now_us,
                                             sim->now_us - read->begun_us, sim->options->fill_share);
                for (uint64_t m = fetch->mask; m; m &= m - 1)
                        arrive(sim, fetch->slice * SLICE_PAGES + (unsigned) __builtin_ctzll(m));
                (void) fetch_free(fetch);
                memmove(&sim->under_way[i], &sim->under_way[i + 1],
                        (--sim->n_under_way - i) * sizeof sim->under_way[0]);
        }
        return any;
}

/* ---- when nobody waits ---- */

static bool step_around(struct sim *sim) {
        uint64_t slice;

        if (sim->n_around == 0)
                return false;
        slice = sim->around[0];
        memmove(&sim->around[0], &sim->around[1], --sim->n_around * sizeof sim->around[0]);
        (void) claim(sim, slice * SLICE_PAGES, min_u64((slice + 1) * SLICE_PAGES, sim->trace->n_pages) - 1,
                     CLASS_PREFETCH, 0);
        return true;
}

static bool step_fill(struct sim *sim) {
        uint64_t first = sim->fill_page, last, absent = 0;

        sim->rate_due_us = UINT64_MAX;
        if (!sim->options->fill || first >= sim->trace->n_pages || fetch_queue_count(&sim->queue) >= ORDER_FILL_AHEAD)
                return false;
        last = min_u64(first | (SLICE_PAGES - 1), sim->trace->n_pages - 1);
        if (order_share_is_busy(&sim->background.share, sim->now_us))
                last = min_u64(last, first | (ORDER_PIECE_PAGES - 1));
        for (uint64_t page = first; page <= last; page++)
                absent += sim->pages[page].state == ABSENT;
        if (absent > 0) {
                uint64_t due_us = order_rate_take(&sim->rate, sim->now_us + USEC_PER_SEC, absent * PB_PAGE_BYTES);

                if (due_us) {
                        sim->rate_due_us = due_us - USEC_PER_SEC;
                        return false;
                }
        }
        (void) claim(sim, first, last, CLASS_FILL, 0);
        sim->fill_page = last + 1;
        return true;
}

/* ---- all ---- */

static uint64_t next_event(const struct sim *sim) {
        uint64_t next_us = min_u64(sim->background_us, sim->rate_due_us);

        for (unsigned i = 0; i < sim->n_under_way; i++)
                next_us = min_u64(next_us, sim->result->reads[sim->under_way[i].read].ended_us);
        for (unsigned i = 0; i < sim->trace->n_clients; i++)
                if (sim->clients[i].next < sim->trace->n_wishes && sim->clients[i].wish != sim->clients[i].next)
                        next_us = min_u64(next_us, sim->clients[i].at_us);
        return next_us;
}

static void sim_begin(struct sim *sim) {
        const struct sim_trace *trace = sim->trace;
        size_t n[N_CLASSES] = {};
        int r = driver_init(&sim->driver);

        (void) r;
        assert(r == 0 && sim->options->source->window <= WINDOW_MAX);
        fetch_queue_init(&sim->queue, &sim->driver);
        sim->rate.bytes_per_second = sim->options->fill_rate;
        sim->pages = calloc(trace->n_pages, sizeof *sim->pages);
        sim->clients = calloc(trace->n_clients + 1, sizeof *sim->clients);
        sim->result->client_ended_us = calloc(trace->n_clients + 1, sizeof(uint64_t));
        sim->result->client_served = calloc(trace->n_clients + 1, sizeof(uint64_t));
        assert(sim->pages && sim->clients && sim->result->client_ended_us && sim->result->client_served);
        for (size_t i = 0; i < trace->n_wishes; i++)
                n[trace->clients[trace->wishes[i].client].class]++;
        for (unsigned i = 0; i < N_CLASSES; i++) {
                sim->result->wait_us[i] = calloc(n[i] + 1, sizeof(uint64_t));
                assert(sim->result->wait_us[i]);
        }
        sim->now_us = sim->options->begin_us;
        for (unsigned i = 0; i < trace->n_clients; i++) {
                sim->clients[i].wish = SIZE_MAX;
                next_wish(sim, i, 0);
        }
        sim->now_us = 0;
}

void sim_run(const struct sim_trace *trace, const struct sim_options *options, struct sim_result *ret) {
        struct sim sim = { .trace = trace, .options = options, .result = ret };

        *ret = (struct sim_result) {};
        sim_begin(&sim);
        for (;;) {
                uint64_t next_us;
                bool any;

                any = end_reads(&sim);
                any = step_clients(&sim) || any;
                any = start_reads(&sim) || any;
                if (any || step_around(&sim) || step_fill(&sim))
                        continue;
                next_us = next_event(&sim);
                if (next_us == UINT64_MAX)
                        break;
                assert(next_us > sim.now_us);
                sim.now_us = next_us;
        }
        ret->ended_us = sim.now_us;
        for (uint64_t page = 0; page < trace->n_pages; page++)
                ret->pages_missing += sim.pages[page].state != PRESENT;
        fetch_queue_done(&sim.queue);
        driver_done(&sim.driver);
        free(sim.pages);
        free(sim.clients);
}

void sim_result_done(struct sim_result *result) {
        for (unsigned i = 0; i < N_CLASSES; i++)
                free(result->wait_us[i]);
        free(result->client_ended_us);
        free(result->client_served);
        free(result->reads);
        *result = (struct sim_result) {};
}

static int compare(const void *a, const void *b) {
        uint64_t left = *(const uint64_t *) a, right = *(const uint64_t *) b;

        return left < right ? -1 : left > right;
}

uint64_t sim_quantile(uint64_t *values, size_t n, double part) {
        if (n == 0)
                return 0;
        qsort(values, n, sizeof *values, compare);
        return values[min_u64((uint64_t) ((double) n * part), n - 1)];
}
