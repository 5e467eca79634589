/* SPDX-License-Identifier: MIT */
#include "broker/pager.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/memory.h"
#include "broker/pager-internal.h"
#include "broker/peer.h"
#include "broker/recorder.h"
#include "broker/replay.h"
#include "broker/session.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/macro.h"
#include "protocol/order.h"
#include "protocol/working-set.h"

/* #syscalls:broker epoll_wait epoll_ctl sched_yield ~getcpu ~clock_gettime */

enum command_kind {
        COMMAND_ADD_SESSION,
        COMMAND_CLOSE_SESSION,
        COMMAND_SET_FILL,
        COMMAND_FILL_AGAIN,
        COMMAND_FILL_ANEW,
        COMMAND_CLEAR,
        COMMAND_REPLAY,
        COMMAND_PREFETCH,
        COMMAND_SYNC,
        COMMAND_STOP,
};

struct pager_command {
        enum command_kind kind;
        struct session *session; /* to be added */
        uint64_t session_id;     /* to be closed: by then the pager may have dropped it by itself */
        bool on;
        struct replay *replay;
        struct own_prefetch *prefetch;
        struct memory *memory; /* to be cleared */
        struct pager_command *next;
};

/* ---- from other threads ---- */

static void pager_command(struct pager *pager, struct pager_command command) {
        struct pager_command *copy = malloc(sizeof *copy);

        /* Nothing that could be left out: a lost close would keep a dead client's session for ever. */
        if (!copy)
                abort();
        *copy = command;
        (void) pthread_mutex_lock(&pager->command_lock);
        LL_APPEND(pager->commands, copy);
        (void) pthread_mutex_unlock(&pager->command_lock);
        driver_signal(&pager->driver);
}

void pager_add_session(struct pager *pager, struct session *session) {
        pager_command(pager, (struct pager_command) { .kind = COMMAND_ADD_SESSION, .session = session });
}

void pager_close_session(struct pager *pager, uint64_t session_id) {
        pager_command(pager, (struct pager_command) { .kind = COMMAND_CLOSE_SESSION, .session_id = session_id });
}

void pager_set_fill(struct pager *pager, bool on) {
        pager_command(pager, (struct pager_command) { .kind = COMMAND_SET_FILL, .on = on });
}

void pager_fill_again(struct pager *pager) {
        pager_command(pager, (struct pager_command) { .kind = COMMAND_FILL_AGAIN });
}

void pager_fill_anew(struct pager *pager) {
        pager_command(pager, (struct pager_command) { .kind = COMMAND_FILL_ANEW });
}

void pager_clear(struct pager *pager, struct memory *memory) {
        pager_command(pager, (struct pager_command) { .kind = COMMAND_CLEAR, .memory = memory });
}

void pager_set_replay(struct pager *pager, struct replay *replay) {
        /* Now: whoever asked for it may look before the pager has begun. */
        atomic_fetch_add_explicit(&pager->replays_asked, 1, memory_order_relaxed);
        pager_command(pager, (struct pager_command) { .kind = COMMAND_REPLAY, .replay = replay });
}

bool pager_is_replaying(const struct pager *pager) {
        return atomic_load_explicit(&pager->replays_ended, memory_order_acquire) !=
               atomic_load_explicit(&pager->replays_asked, memory_order_relaxed);
}

void pager_add_prefetch(struct pager *pager, struct own_prefetch *prefetch) {
        pager_command(pager, (struct pager_command) { .kind = COMMAND_PREFETCH, .prefetch = prefetch });
}

uint64_t pager_turns(const struct pager *pager) {
        return atomic_load_explicit(&pager->turns, memory_order_relaxed);
}

void pager_poke(struct pager *pager) {
        driver_signal(&pager->driver);
}

void pager_sync(struct pager *pager) {
        unsigned asked;

        (void) pthread_mutex_lock(&pager->command_lock);
        asked = ++pager->n_syncs_asked;
        (void) pthread_mutex_unlock(&pager->command_lock);
        pager_command(pager, (struct pager_command) { .kind = COMMAND_SYNC });
        (void) pthread_mutex_lock(&pager->command_lock);
        while (pager->n_syncs < asked)
                (void) pthread_cond_wait(&pager->synced, &pager->command_lock);
        (void) pthread_mutex_unlock(&pager->command_lock);
}

static void pager_answer_sync(struct pager *pager) {
        (void) pthread_mutex_lock(&pager->command_lock);
        pager->n_syncs++;
        (void) pthread_cond_signal(&pager->synced);
        (void) pthread_mutex_unlock(&pager->command_lock);
}

void pager_memory_filled(struct pager *pager) {
        atomic_store_explicit(&pager->filled, true, memory_order_release);
        driver_signal(&pager->driver);
}

struct driver *pager_driver(struct pager *pager) {
        return &pager->driver;
}

struct memory *pager_get_memory(struct pager *pager, uint32_t index) {
        return index < pager->n_memories ? pager->memories[index] : NULL;
}

bool pager_is_complete(const struct pager *pager) {
        for (unsigned i = 0; i < pager->n_memories; i++)
                if (!atomic_load_explicit(&pager->memories[i]->hidden, memory_order_relaxed) &&
                    atomic_load_explicit(&pager->memories[i]->pages_present, memory_order_relaxed) <
                            pager->memories[i]->n_pages)
                        return false;
        return true;
}

/* ---- on the pager's thread ---- */

struct request **pager_prefetch_list(struct pager *pager) {
        return &pager->prefetches;
}

void pager_count_fault(struct pager *pager) {
        atomic_fetch_add_explicit(&pager->faults_linked, 1, memory_order_relaxed);
}

static void pager_drop_session(struct pager *pager, struct session *session) {
        const char *reason = session->violation;

        if (pager->next_session == session)
                pager->next_session = session->next;
        DL_DELETE(pager->sessions, session);
        pager->n_sessions--;
        pager->events.session_closed(pager->events.data, session, reason);
}

static void pager_start_session(struct pager *pager, struct session *session) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLET };

        session->pager = pager;
        DL_APPEND(pager->sessions, session);
        pager->n_sessions++;
        /* Edge-triggered and never read: whatever the client does with the counter, we neither block nor miss a
         * write. */
        if (epoll_ctl(pager->epoll, EPOLL_CTL_ADD, session->doorbell, &event) < 0)
                session->violation = "its doorbell cannot be polled";
}

static void pager_end_session(struct pager *pager, struct session *session) {
        if (session->closed)
                return;
        (void) epoll_ctl(pager->epoll, EPOLL_CTL_DEL, session->doorbell, NULL);
        session_close(session);
}

static void tell_fill(struct pager *pager) {
        atomic_store_explicit(&pager->fill_on_now, pager->fill_on, memory_order_relaxed);
        if (pager->fill_on)
                recorder_flag(pager->recorder, PB_WORKING_SET_FILL);
}

static bool pager_run_commands(struct pager *pager) {
        struct pager_command *command, *next;
        struct session *session;
        bool stop = false;

        (void) pthread_mutex_lock(&pager->command_lock);
        command = pager->commands;
        pager->commands = NULL;
        (void) pthread_mutex_unlock(&pager->command_lock);
        for (; command; command = next) {
                next = command->next;
                switch (command->kind) {
                case COMMAND_ADD_SESSION:
                        pager_start_session(pager, command->session);
                        break;
                case COMMAND_CLOSE_SESSION:
                        DL_FOREACH (pager->sessions, session)
                                if (session->id == command->session_id)
                                        pager_end_session(pager, session);
                        break;
                case COMMAND_SET_FILL:
                        pager->fill_wanted = command->on;
                        pager->fill_on = command->on && !pager->retired;
                        pager->fill_again_us = 0;
                        if (!command->on)
                                pager_fill_stop(pager);
                        tell_fill(pager);
                        break;
                case COMMAND_FILL_AGAIN:
                        pager->fill_again_us = 0;
                        break;
                case COMMAND_FILL_ANEW:
                        pager->fill_on = pager->fill_wanted && !pager->retired;
                        pager->fill_again_us = 0;
                        tell_fill(pager);
                        break;
                case COMMAND_CLEAR:
                        pager_clear_begin(pager, command->memory);
                        break;
                case COMMAND_REPLAY:
                        pager_replay_begin(pager, command->replay);
                        break;
                case COMMAND_PREFETCH:
                        pager_prefetch_begin(pager, command->prefetch);
                        break;
                case COMMAND_SYNC:
                        pager_answer_sync(pager);
                        break;
                case COMMAND_STOP:
                        stop = true;
                        break;
                }
                free(command);
        }
        return stop;
}

static bool pager_run_inbox(struct pager *pager) {
        struct request *request = driver_take(&pager->driver), *next;
        bool any = request;

        for (; request; request = next) {
                next = request->inbox_next;
                request_resume(request);
        }
        return any;
}

/* Sessions that broke a rule are closed; closed ones go when nothing refers to them any more. */
static void pager_sweep_sessions(struct pager *pager) {
        struct session *session, *next;

        DL_FOREACH_SAFE (pager->sessions, session, next) {
                if (session->violation)
                        pager_end_session(pager, session);
                if (session->closed && session_is_drained(session))
                        pager_drop_session(pager, session);
        }
}

static bool pager_take_all(struct pager *pager) {
        struct session *session;
        bool any = false;

        DL_FOREACH (pager->sessions, session)
                if (session_is_pending(session) && session_take(session))
                        any = true;
        return any;
}

/* One step for each session that wants something, starting with another one each turn. */
static bool pager_issue_demand(struct pager *pager) {
        struct session *first = pager->next_session ?: pager->sessions, *session;
        bool any = false;

        for (session = first; session; session = session->next)
                any = session_issue(session) || any;
        for (session = pager->sessions; session && session != first; session = session->next)
                any = session_issue(session) || any;
        pager->next_session = first ? first->next : NULL;
        return any;
}

static bool pager_issue_prefetch(struct pager *pager) {
        struct request *request = pager->prefetches;
        enum request_step step;

        if (!request)
                return false;
        request_unlist(request);
        step = request_issue(pager, request, 1);
        if (step == REQUEST_MORE)
                request->ops->more(request);
        else if (step == REQUEST_DECIDED)
                request->ops->complete(request, request_result(request));
        return true;
}

static void pager_announce_all(struct pager *pager) {
        struct session *session;

        DL_FOREACH (pager->sessions, session)
                session_announce(session);
}

static void pager_hint_awake(struct pager *pager, bool awake) {
        struct session *session;
        unsigned cpu = 0;

        (void) getcpu(&cpu, NULL);
        DL_FOREACH (pager->sessions, session) {
                order_hint_store32(&session->state->pager_cpu, cpu);
                order_hint_store32(&session->state->pager_awake, awake);
                order_hint_store64(&session->state->pager_turns, pager_turns(pager));
        }
}

static bool pager_has_news(struct pager *pager) {
        struct session *session;

        if (__atomic_load_n(&pager->driver.signalled, __ATOMIC_ACQUIRE))
                return true;
        DL_FOREACH (pager->sessions, session)
                if (session_is_pending(session))
                        return true;
        return reader_has_answers(pager->reader);
}

/* A wake-up across CPUs costs far more than a short look-out; yielding keeps it harmless where client and pager share
 * one. */
static bool pager_spin(struct pager *pager) {
        uint64_t until = clock_now_us() + pager->options.spin_us;

        do {
                if (pager_has_news(pager))
                        return true;
                (void) sched_yield();
        } while (clock_now_us() < until);
        return false;
}

static int timeout_ms(uint64_t next_us, uint64_t now_us) {
        if (next_us == USEC_INFINITY)
                return -1;
        if (next_us <= now_us)
                return 0;
        return (int) min_u64((next_us - now_us + USEC_PER_MSEC - 1) / USEC_PER_MSEC, 60000);
}

static void pager_sleep(struct pager *pager, uint64_t next_us) {
        struct epoll_event events[32];
        struct session *session;
        int n;

        pager_hint_awake(pager, false);
        DL_FOREACH (pager->sessions, session)
                order_arm_doorbell(&session->state->doorbell_needed);
        order_after_arm();
        if (!pager_has_news(pager)) {
                n = epoll_wait(pager->epoll, events, ELEMENTS(events), timeout_ms(next_us, clock_now_us()));
                for (int i = 0; i < n; i++)
                        if (events[i].data.ptr == &pager->driver)
                                (void) !read(pager->driver.eventfd, &(uint64_t) { 0 }, sizeof(uint64_t));
                        else if (events[i].data.ptr == &pager->source_ended)
                                pager->source_ended = true;
        }
        DL_FOREACH (pager->sessions, session)
                order_disarm_doorbell(&session->state->doorbell_needed);
        pager_hint_awake(pager, true);
}

/* Work that somebody stands still for goes first; a turn ends early when there was some. Returns true if anything was
 * done; `ret_next_us`: when to look again. */
static bool pager_turn(struct pager *pager, bool *ret_stop, uint64_t *ret_next_us) {
        uint64_t now_us, next_us = USEC_INFINITY, turns = pager_turns(pager) + 1;
        bool any, demand;

        atomic_store_explicit(&pager->turns, turns, memory_order_relaxed);
        /* Before the queues are looked at: who adds to them later signals again. */
        __atomic_store_n(&pager->driver.signalled, false, __ATOMIC_SEQ_CST);
        *ret_stop = pager_run_commands(pager);
        any = pager_heal_returned(pager);
        any = pager_run_inbox(pager) || any;
        any = pager_take_all(pager) || any;
        demand = pager_issue_demand(pager);
        any = demand || any;
        any = pager_start_reads(pager) || any;
        any = pager_reap_reads(pager) || any;
        now_us = clock_now_us();
        if (demand)
                order_share_demand(&pager->share, now_us);
        any = pager_check_reads(pager, now_us, &next_us) || any;
        any = pager_check_punches(pager, now_us, &next_us) || any;
        pager_sweep_sessions(pager);
        /* Now and then also while there is demand: one client that always wants something must not keep hints and fill
         * from ever being begun. */
        if (!any || turns % 16 == 0)
                any = pager_clear_step(pager) || pager_issue_prefetch(pager) || pager_around_step(pager) || pager_replay_step(pager) ||
                      pager_fill_step(pager, now_us) || any;
        pager_check_filled(pager);
        pager_end_sources(pager);
        pager_retire(pager);
        pager_announce_all(pager);
        *ret_next_us = min_u64(next_us, pager_fill_next(pager, now_us));
        return any;
}

static void *pager_thread(void *arg) {
        struct pager *pager = arg;
        bool stop = false;

        (void) pthread_setname_np(pthread_self(), "pager");
        driver_enter(&pager->driver);
        while (!stop) {
                uint64_t next_us;

                if (pager_turn(pager, &stop, &next_us) || stop)
                        continue;
                if (next_us > clock_now_us() && !pager_spin(pager))
                        pager_sleep(pager, next_us);
        }
        pager_fill_stop(pager);
        pager_replay_stop(pager);
        pager_prefetch_stop(pager);
        for (struct session *session = pager->sessions, *next; session; session = next) {
                next = session->next;
                pager_end_session(pager, session);
        }
        /* What is parked comes back through the inbox or stays: the process ends. */
        (void) pager_run_inbox(pager);
        pager_sweep_sessions(pager);
        return NULL;
}

/* ---- life ---- */

int pager_watch(struct pager *pager, int fd, uint32_t events, void *tag) {
        struct epoll_event event = { .events = events, .data.ptr = tag };

        return epoll_ctl(pager->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int pager_new(struct pager **ret, const struct pager_options *options, const struct pager_events *events) {
        struct pager *pager = calloc(1, sizeof *pager);
        int r;

        if (!pager)
                return -ENOMEM;
        pager->options = *options;
        pager->events = *events;
        pager->poison_limit = LOG_LIMIT_DEFAULT;
        pager->fill_on = pager->fill_wanted = options->fill;
        atomic_init(&pager->fill_on_now, options->fill);
        atomic_init(&pager->fill_rate, options->fill_rate);
        (void) pthread_mutex_init(&pager->command_lock, NULL);
        (void) pthread_cond_init(&pager->synced, NULL);
        pager->driver.eventfd = -1;
        pager->epoll = epoll_create1(EPOLL_CLOEXEC);
        r = pager->epoll < 0 ? -errno : driver_init(&pager->driver);
        if (r < 0)
                goto fail;
        fetch_queue_init(&pager->fetch_queue, &pager->driver);
        r = reader_new(&pager->reader, options->reader, options->depth);
        if (r < 0)
                goto fail;
        r = recorder_new(&pager->recorder);
        if (r < 0)
                goto fail;
        r = punch_worker_new(&pager->puncher, &pager->driver);
        if (r < 0)
                goto fail;
        r = pager_watch(pager, pager->driver.eventfd, EPOLLIN, &pager->driver);
        if (r == 0)
                r = pager_watch(pager, reader_get_fd(pager->reader), EPOLLIN, pager->reader);
        if (r < 0)
                goto fail;
        *ret = pager;
        return 0;

fail:
        (void) pager_free(pager);
        return r;
}

bool pager_can_be_freed(struct pager *pager) {
        if (!pager || !pager->puncher)
                return true;
        if (!punch_worker_stop(pager->puncher))
                return false;
        pager->puncher = NULL;
        return true;
}

struct pager *pager_free(struct pager *pager) {
        if (!pager)
                return NULL;
        pager_stop(pager);
        pager_drop_reads(pager);
        for (struct pager_command *command = pager->commands, *next; command; command = next) {
                next = command->next; /* came after the last turn */
                if (command->kind == COMMAND_REPLAY)
                        (void) replay_free(command->replay);
                free(command);
        }
        (void) pager_can_be_freed(pager);
        for (struct punch *punch = pager->punches, *next; punch; punch = next) {
                next = punch->next;
                if (__atomic_load_n(&punch->done, __ATOMIC_ACQUIRE))
                        free(punch);
        }
        pager->reader = reader_free(pager->reader);
        pager->recorder = recorder_free(pager->recorder);
        if (pager->driver.eventfd >= 0) {
                fetch_queue_done(&pager->fetch_queue);
                driver_done(&pager->driver);
        }
        (void) fd_close(pager->epoll);
        (void) pthread_mutex_destroy(&pager->command_lock);
        (void) pthread_cond_destroy(&pager->synced);
        free(pager);
        return NULL;
}

int pager_add_memory(struct pager *pager, struct memory *memory) {
        assert(!pager->running && pager->n_memories < PB_MEMORIES_MAX);
        pager->entries[pager->n_memories].pager = pager;
        if (memory->source) /* in a test it may come later */
                source_watch(memory->source, pager_source_returned, &pager->entries[pager->n_memories]);
        memory->index = pager->n_memories;
        pager->memories[pager->n_memories++] = memory;
        return memory->source ? pager_add_source(pager, memory->source) : 0;
}

int pager_start(struct pager *pager) {
        sigset_t all, saved;
        int r;

        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &saved);
        r = pthread_create(&pager->thread, NULL, pager_thread, pager);
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        if (r != 0)
                return -r;
        pager->running = true;
        return 0;
}

void pager_stop(struct pager *pager) {
        if (!pager->running)
                return;
        pager_command(pager, (struct pager_command) { .kind = COMMAND_STOP });
        (void) pthread_join(pager->thread, NULL);
        pager->running = false;
}
