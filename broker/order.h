/* SPDX-License-Identifier: MIT */
/*
 * In which order, how much around, how many at once: the pager's decisions, without a clock, a lock or a system call, so
 * that they can be tested, and simulated, by themselves. Times are microseconds and arguments.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/request.h"

/*
 * Whose turn is it? Demand goes before background, always. Inside each pair the first goes first, but one in four goes to
 * the second if it waits: a VMM that faults without end must not stop its devices, nor hints the fill.
 */
struct order_turns {
        unsigned in_row[2]; /* picks of the pair's first since the second had one: demand, background */
};

/* One of the classes that wait; N_CLASSES: none does. */
enum request_class order_pick(const struct order_turns *turns, const bool waiting[N_CLASSES]);
void order_picked(struct order_turns *turns, enum request_class class, const bool waiting[N_CLASSES]);

/*
 * What reads of a source cost. Two sizes are told apart: those up to 16 KiB, whose time is the source's latency, and those
 * from 128 KiB on, whose time has its bandwidth in it.
 */
struct order_link {
        uint32_t small_us, large_us; /* smoothed; 0: none seen yet */
        uint32_t small_pages, large_pages;
};

void order_link_note(struct order_link *link, unsigned pages, uint64_t took_us);

/*
 * Pages whose transfer takes as long as the source's latency: reading so many instead of one doubles the time of a read at
 * most. Small for a near source, MiBs for a far one. At least ORDER_AROUND_MIN.
 */
unsigned order_link_around(const struct order_link *link);

#define ORDER_AROUND_MIN 4u    /* pages */
#define ORDER_AROUND_MAX 1024u /* pages: 4 MiB */

/*
 * How much of what lies around a wanted page is worth bringing along. Grows while wanted pages lie close to earlier ones,
 * shrinks while they do not: neighbours of random accesses are read for nothing.
 */
#define ORDER_RECENT 16u

struct order_locality {
        uint64_t recent[ORDER_RECENT]; /* pages + 1; 0: none */
        unsigned next;
        unsigned pages; /* the window; 0: not begun */
};

/* A page was wanted and had to be fetched. Returns the window, a power of two, at most `limit` and ORDER_AROUND_MAX. */
unsigned order_locality_note(struct order_locality *locality, uint64_t page, unsigned limit);

/*
 * How many short background reads at once, of a working set or of hints. More, as long as that does not make each slower than
 * half as long again as the best; fewer when it does: they queue somewhere then, and a demand would queue behind them. They are
 * mostly latency, which many at once share, so each is compared as it is. A demand takes nothing away: as long as they do not
 * slow each other they do not slow it. All that are under way when one was slow count as one, since what slowed one slowed
 * them all: a moment's noise of a far source would bring it down to one, and as few reads as that take long to find out that
 * more would do.
 */
struct order_depth {
        uint32_t best_us; /* of a read, forgotten slowly */
        uint32_t depth;   /* 0: not begun */
        uint32_t good;    /* reads in a row that were not slow */
};

struct order_short_depth {
        struct order_depth depth;
        uint64_t lowered_us; /* when it last was; reads from before that say nothing more */
};

unsigned order_depth_get(const struct order_depth *depth);

/* More than this at once brings no source anything. */
#define ORDER_DEPTH_MAX 64u

bool order_is_short(unsigned pages);
void order_short_note(struct order_short_depth *short_depth, uint64_t begun_us, uint64_t took_us, unsigned max);

/* A rate limit: bytes may be taken when they are due. 0: unlimited. */
struct order_rate {
        uint64_t bytes_per_second;
        uint64_t due_us; /* when the next may be taken */
};

/* 0: taken. Else when to ask again. What was not used for a while is lost but for a tenth of a second's worth. */
uint64_t order_rate_take(struct order_rate *rate, uint64_t now_us, uint64_t bytes);
