/* SPDX-License-Identifier: MIT */
/* Calls over the control socket: stats, the fill switch, explanations, and brokers that answer badly. */
#include "tests/unit/client/support.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client/failure.h"
#include "common/cleanup.h"
#include "common/packet.h"

static struct fake *fake;
static pb_client *client;

static void start_with(const struct fake_options *options, uint32_t role) {
        fake = fake_new(options);
        fake_start(fake);
        client = connect_with(fake, OPTIONS(.role = role, .slice_us = 1000));
}

static void start(void (*on_call)(struct fake *, const struct fake_call *, struct fake_packet *), uint32_t role) {
        start_with(&(struct fake_options) { .n_pages = { 64, 64 }, .on_call = on_call }, role);
}

static void stop(void) {
        client = pb_disconnect(client);
        fake_free(fake);
}

static void answer_stats(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        uint64_t *field = &answer->stats.pages_total;

        for (unsigned i = 0; i < 11; i++)
                field[i] = 100 + i;
        answer->stats.sources_lost = 111;
        answer->stats.pages_left_out = 112;
        answer->stats.complete = 1;
        answer->stats.fill = 1;
}

TEST(stats, are_the_brokers) {
        struct pb_stats stats = { .size = sizeof stats };

        start(answer_stats, PB_ROLE_OBSERVER);
        cr_assert_eq(pb_get_stats(client, &stats), 0);
        cr_assert_eq(stats.size, sizeof stats);
        cr_assert_eq(stats.pages_total, 100);
        cr_assert_eq(stats.pages_data, 101);
        cr_assert_eq(stats.pages_present, 102);
        cr_assert_eq(stats.pages_data_present, 103);
        cr_assert_eq(stats.pages_poisoned, 104);
        cr_assert_eq(stats.pages_in_flight, 105);
        cr_assert_eq(stats.faults_linked, 106);
        cr_assert_eq(stats.faults_peer, 107);
        cr_assert_eq(stats.bytes_fetched, 108);
        cr_assert_eq(stats.clients, 109);
        cr_assert_eq(stats.peers, 110);
        cr_assert_eq(stats.sources_lost, 111);
        cr_assert_eq(stats.pages_left_out, 112);
        cr_assert_eq(stats.complete, 1);
        cr_assert_eq(stats.fill, 1);
        stop();
}

TEST(stats, fit_the_size_that_the_caller_has) {
        struct {
                struct pb_stats stats;
                uint64_t future;
                uint64_t behind;
        } larger = { { .size = sizeof(struct pb_stats) + 8 }, 1, 2 };
        struct pb_stats smaller = { .size = 40, .pages_total = 5 };
        struct pb_stats first = { .size = offsetof(struct pb_stats, pages_left_out), .pages_left_out = 6 };
        struct pb_counters counters = { .size = 8, .sleeps = 5 };

        start(answer_stats, PB_ROLE_DEVICE);
        cr_assert_eq(pb_get_stats(client, &larger.stats), 0);
        cr_assert_eq(larger.stats.peers, 110);
        cr_assert_eq(larger.future, 0);
        cr_assert_eq(larger.behind, 2);
        cr_assert_eq(pb_get_stats(client, &first), 0, "a program that was built before this field was there");
        cr_assert_eq(first.sources_lost, 111);
        cr_assert_eq(first.pages_left_out, 6);
        cr_assert_eq(pb_get_stats(client, &smaller), -EINVAL);
        cr_assert_eq(smaller.pages_total, 5);
        cr_assert_eq(pb_get_counters(client, &counters), -EINVAL);
        cr_assert_eq(counters.sleeps, 5);
        stop();
}

TEST(fill, is_switched_by_the_vmm_only) {
        start(NULL, PB_ROLE_VMM);
        cr_assert_eq(pb_set_fill(client, true), 0);
        cr_assert_eq(fake->calls[1].header.type, PB_MSG_SET_FILL);
        cr_assert_eq(fake->calls[1].set_fill.on, 1);
        cr_assert_neq(fake->calls[1].header.serial, 0);
        cr_assert_eq(pb_set_fill(client, false), 0);
        cr_assert_eq(fake->calls[2].set_fill.on, 0);
        stop();
        start(NULL, PB_ROLE_DEVICE);
        cr_assert_eq(pb_set_fill(client, true), -EACCES);
        cr_assert_eq(fake->n_calls, 1);
        stop();
}

static void answer_heal(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        if (call->header.type == PB_MSG_HEAL)
                answer->result.value = 2;
}

static void expect_heal(unsigned index, uint32_t memory, uint64_t first, uint64_t n) {
        const struct pb_message_heal *heal = &fake->calls[index].heal;

        cr_assert_eq(heal->header.type, PB_MSG_HEAL);
        cr_assert(heal->memory == memory && heal->first == first && heal->n_pages == n, "memory %u, %lu pages from %lu",
                  heal->memory, (unsigned long) heal->n_pages, (unsigned long) heal->first);
}

/* Pages 8 to 15 of a memory are shown at 0, pages 0 to 7 from 32 KiB on. */
TEST(heal, asks_for_whole_pages_of_each_region) {
        const struct fake_options options = {
                .n_pages = { 16 },
                .regions = { { .gpa = 0, .size = 8 * PAGE, .offset = 8 * PAGE },
                             { .gpa = 8 * PAGE, .size = 8 * PAGE } },
                .n_regions = 2,
                .on_call = answer_heal,
        };
        uint64_t healed = 7;

        start_with(&options, PB_ROLE_VMM);
        cr_assert_eq(pb_heal(client, 7 * PAGE + 1, PAGE, &healed), 0);
        cr_assert_eq(healed, 4);
        expect_heal(1, 0, 15, 1);
        expect_heal(2, 0, 0, 1);
        cr_assert_eq(pb_heal(client, 0, 0, &healed), 0);
        expect_heal(3, UINT32_MAX, 0, 0);
        cr_assert_eq(healed, 2);
        cr_assert_eq(pb_heal(client, 16 * PAGE, 1 << 30, &healed), 0);
        cr_assert_eq(healed, 0);
        cr_assert_eq(pb_heal(client, PAGE, 0, &healed), -EINVAL);
        cr_assert_eq(pb_heal(client, PAGE, UINT64_MAX, &healed), -EINVAL);
        cr_assert_eq(fake->n_calls, 4);
        stop();
}

TEST(heal, is_for_the_vmm_only) {
        start(NULL, PB_ROLE_DEVICE);
        cr_assert_eq(pb_heal(client, 0, 0, NULL), -EACCES);
        cr_assert_eq(fake->n_calls, 1);
        stop();
}

/* ---- brokers that answer badly: each answer ends the call with the error, the output is untouched ---- */

static int stats_error(void (*on_call)(struct fake *, const struct fake_call *, struct fake_packet *), int *ret_next) {
        struct pb_stats stats = { .size = sizeof stats, .pages_total = 4711 };
        int r;

        start(on_call, PB_ROLE_DEVICE);
        r = pb_get_stats(client, &stats);
        cr_assert_eq(stats.pages_total, 4711);
        *ret_next = pb_set_fill(client, true) == -EACCES ? pb_get_stats(client, &stats) : 1;
        stop();
        return r;
}

static void refuse_call(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        uint64_t serial = answer->header.serial;

        answer->result = (struct pb_message_result) {
                .header = { .type = PB_MSG_RESULT, .size = sizeof answer->result, .serial = serial },
                .error = -ENOSYS,
        };
        answer->size = sizeof answer->result;
}

static void succeed_without_reply(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        refuse_call(f, call, answer);
        answer->result.error = 0;
}

static void wrong_serial(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        answer->header.serial += 5;
}

static void wrong_type(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        answer->header.type = PB_MSG_READY;
        answer->header.size = sizeof answer->plain;
        answer->size = sizeof answer->plain;
}

static void truncated(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        answer->size -= 4;
}

static void with_descriptor(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        answer->n_fds = 1;
        answer->fds[0] = eventfd(0, EFD_CLOEXEC);
}

static void unasked(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        answer->header.serial = 0;
}

TEST(bad_answer, refusal_is_handed_on_and_the_session_lives) {
        int next;

        cr_assert_eq(stats_error(refuse_call, &next), -ENOSYS);
        cr_assert_eq(next, -ENOSYS);
}

TEST(bad_answer, ends_the_channel) {
        void (*const lies[])(struct fake *, const struct fake_call *, struct fake_packet *) = {
                wrong_serial, wrong_type, truncated, with_descriptor, unasked, succeed_without_reply,
        };
        int next;

        for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
                cr_assert_eq(stats_error(lies[i], &next), -EPROTO, "lie %u", i);
                cr_assert_eq(next, -ECONNRESET, "lie %u", i);
        }
}

static void say_nothing_once(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        if (f->n_calls == 2)
                answer->size = 0;
        /* The second call gets the late answer to the first one before its own. */
        if (f->n_calls == 3) {
                struct pb_message_result late = {
                        .header = { .type = PB_MSG_RESULT, .size = sizeof late, .serial = CALL_SERIAL_UNAWAITED + 1 },
                        .error = -EBUSY,
                };

                (void) packet_send(f->socket, &late, sizeof late, NULL, 0, 0);
        }
}

TEST(call, late_answers_are_dropped) {
        struct pb_message_plain message = { .header = { .type = PB_MSG_STATS, .size = sizeof message } };
        union link_message reply;

        start(say_nothing_once, PB_ROLE_DEVICE);
        cr_assert_eq(call_exchange(&client->channel, &message, NULL, 0, PB_MSG_STATS_REPLY, 20000, &reply), -ETIMEDOUT);
        cr_assert_eq(call_exchange(&client->channel, &message, NULL, 0, PB_MSG_STATS_REPLY, 10000000, &reply), 0);
        cr_assert_eq(reply.header.type, PB_MSG_STATS_REPLY);
        cr_assert_eq(reply.header.serial, CALL_SERIAL_UNAWAITED + 2);
        stop();
}

static void echo_serial(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        answer->stats.pages_total = call->header.serial;
}

static void *ask_often(void *userdata) {
        for (unsigned i = 0; i < 200; i++) {
                struct pb_stats stats = { .size = sizeof stats };

                if (pb_get_stats(client, &stats) < 0)
                        return (char *) "failed";
        }
        return NULL;
}

TEST(call, several_threads_ask_at_once) {
        pthread_t threads[4];
        void *failed;

        start(echo_serial, PB_ROLE_DEVICE);
        for (unsigned i = 0; i < 4; i++)
                cr_assert_eq(pthread_create(&threads[i], NULL, ask_often, NULL), 0);
        for (unsigned i = 0; i < 4; i++) {
                cr_assert_eq(pthread_join(threads[i], &failed), 0);
                cr_assert_null(failed);
        }
        cr_assert_eq(fake->n_calls, 801);
        stop();
}

/* ---- explanations ---- */

static void explain_page(struct fake *f, const struct fake_call *call, struct fake_packet *answer) {
        if (call->header.type != PB_MSG_EXPLAIN)
                return;
        answer->result.error = -EIO;
        (void) snprintf(answer->result.text, sizeof answer->result.text,
                        "read of snapshot.raw at %llu:\nsector unreadable",
                        (unsigned long long) call->explain.page * 4096);
}

TEST(explain, names_page_memory_and_reason_of_poison) {
        struct fake_request request;
        struct caller caller;
        const char *text;

        start(explain_page, PB_ROLE_DEVICE);
        cr_assert_str_eq(pb_explain(client), "no call of this thread has failed");
        fake_poison(fake, 1, 5);
        caller_start(&caller, client, 1, &(struct pb_range) { 63 * PAGE, 8 * PAGE, PB_READ, 0 });
        fake_expect(fake, &request);
        fake_answer(fake, &request, -EIO);
        cr_assert_eq(caller_join(&caller), -EIO);
        cr_assert_str_eq(pb_explain(client), "no call of this thread has failed", "it was another thread's");
        failure_record(&client->failures, &(struct failure) { FAILURE_ENSURE, -EIO, FAILURE_AT_PAGE, 1, 5 });
        text = pb_explain(client);
        cr_assert_str_eq(text, "pb_ensure at offset 0x5000 of memory 'ram1' (guest-physical address 0x45000): "
                               "the source could not be read and the page is poisoned: "
                               "read of snapshot.raw at 20480:?sector unreadable");
        cr_assert_eq(fake->calls[1].explain.memory, 1);
        cr_assert_eq(pb_explain(client), text, "the text stays until the next failure");
        cr_assert_eq(fake->n_calls, 2, "and is not asked for again");
        stop();
}

static void *ensure_poisoned(void *userdata) {
        static char text[FAILURE_TEXT_SIZE];

        if (pb_ensure(client, 0, 8 * PAGE, PB_READ) != -EIO)
                return (char *) "not -EIO";
        (void) snprintf(text, sizeof text, "%s", pb_explain(client));
        return text;
}

TEST(explain, finds_the_poisoned_page_of_a_range) {
        struct fake_request request;
        pthread_t thread;
        void *text;

        start(explain_page, PB_ROLE_DEVICE);
        fake_publish(fake, 0, 0, 2);
        fake_poison(fake, 0, 6);
        cr_assert_eq(pthread_create(&thread, NULL, ensure_poisoned, NULL), 0);
        fake_expect(fake, &request);
        fake_answer(fake, &request, -EIO);
        cr_assert_eq(pthread_join(thread, &text), 0);
        cr_assert_not_null(strstr(text, "offset 0x6000 of memory 'ram0'"), "%s", (char *) text);
        cr_assert_not_null(strstr(text, "read of snapshot.raw at 24576"), "%s", (char *) text);
        stop();
}

TEST(explain, follows_the_last_failure) {
        struct pb_region region;

        start(NULL, PB_ROLE_DEVICE);
        cr_assert_eq(pb_ensure(client, 1ull << 40, 1, PB_READ), -EFAULT);
        cr_assert_str_eq(pb_explain(client), "pb_ensure at guest-physical address 0x10000000000: "
                                             "the range does not lie inside guest memory");
        cr_assert_eq(pb_get_region(client, 70, &region), -ENOENT);
        cr_assert_str_eq(pb_explain(client), "pb_get_region: there is no such region");
        cr_assert_str_eq(pb_explain(NULL), "there is no connection");
        stop();
}

TEST(explain, repeats_the_brokers_farewell) {
        struct pb_message_result farewell = {
                .header = { .type = PB_MSG_REFUSED, .size = sizeof farewell },
                .error = -EPROTO,
                .text = "slot 5 was pushed while it was under way",
        };

        start(NULL, PB_ROLE_DEVICE);
        cr_assert_eq(packet_send(fake->socket, &farewell, sizeof farewell, NULL, 0, 0), 0);
        fake_close_session(fake);
        cr_assert_eq(pb_ensure(client, 0, PAGE, PB_READ), -ECONNRESET);
        cr_assert_str_eq(pb_explain(client), "pb_ensure at offset 0x0 of memory 'ram0' (guest-physical address 0x0): "
                                             "the broker is gone: slot 5 was pushed while it was under way");
        stop();
}

/* ---- whose failure ---- */

static pthread_barrier_t barrier;

static void *fail_here(void *userdata) {
        uint64_t gpa = 0x1000000 + (uintptr_t) userdata * 0x1000;
        char expected[64];

        (void) pb_ensure(client, gpa, 1, PB_READ);
        (void) pthread_barrier_wait(&barrier);
        (void) snprintf(expected, sizeof expected, "address 0x%llx:", (unsigned long long) gpa);
        return strstr(pb_explain(client), expected) ? NULL : (char *) "another thread's failure";
}

TEST(failure, of_each_thread_is_its_own) {
        pthread_t threads[32];
        void *wrong;

        start(NULL, PB_ROLE_DEVICE);
        cr_assert_eq(pthread_barrier_init(&barrier, NULL, 32), 0);
        for (uintptr_t i = 0; i < 32; i++)
                cr_assert_eq(pthread_create(&threads[i], NULL, fail_here, (void *) i), 0);
        for (unsigned i = 0; i < 32; i++) {
                cr_assert_eq(pthread_join(threads[i], &wrong), 0);
                cr_assert_null(wrong);
        }
        stop();
}

TEST(failure, entries_of_dead_threads_are_used_again) {
        pthread_t thread;

        start(NULL, PB_ROLE_DEVICE);
        cr_assert_eq(pthread_barrier_init(&barrier, NULL, 1), 0);
        for (uintptr_t i = 0; i < 3 * FAILURE_THREADS_MAX; i++) {
                void *wrong;

                cr_assert_eq(pthread_create(&thread, NULL, fail_here, (void *) i), 0);
                cr_assert_eq(pthread_join(thread, &wrong), 0);
                cr_assert_null(wrong, "thread %u", (unsigned) i);
        }
        stop();
}
