/* SPDX-License-Identifier: MIT */
/* Servers that break the protocol: at worst an error, never a wrong page. */
#include <errno.h>
#include <string.h>

#include "tests/integration/basic/support.h"
#include "tests/integration/nbd/liar.h"

#define N_PAGES 2048u

static struct test_image image;
static const struct test_image *const images[] = { &image };
static uint64_t lied_page; /* has data */

struct scene {
        struct liar liar;
        struct test_broker broker;
        pb_client *client;
};

static void scene_start(struct scene *s, enum lie lie, int times, const char *retries) {
        /* Long for honest answers on a slow machine; short for those that never come, or are never right. */
        const char *patience = lie == LIE_DEAF || times < 0 || (lie == LIE_SILENT && times > 0) ? "--source-timeout=0.3" : "--source-timeout=2";

        test_image_make(&image, &(struct test_image_spec) { .seed = 91, .n_pages = N_PAGES, .data_ppm = 900000 });
        for (lied_page = 700; test_image_is_hole(&image, lied_page); lied_page++)
                ;
        s->liar = (struct liar) { .image = &image, .lie = lie, .page = lied_page, .times = times };
        liar_start(&s->liar);
        TEST_BROKER_START(&s->broker, test_nbd_memory("ram0", &s->liar.nbd, ""), "--fill=off", retries, patience);
        s->client = test_connect(&s->broker, PB_ROLE_VMM);
}

static void scene_stop(struct scene *s) {
        s->client = test_disconnect(s->client);
        test_broker_stop(&s->broker);
        liar_stop(&s->liar);
        test_image_unlink(&image);
}

/* A server that lies once, or three times, and then no more: the right bytes in the end, everywhere. */
static void lies_and_mends(enum lie lie, int times) {
        struct scene s;

        scene_start(&s, lie, times, "--source-retries=100");
        cr_assert(ensure_is_right(s.client, images, lied_page * TEST_PAGE, TEST_PAGE));
        cr_assert_eq((int) liar_count(&s.liar), times);
        cr_assert(ensure_is_right(s.client, images, 0, N_PAGES * TEST_PAGE));
        scene_stop(&s);
}

static bool is_had(struct scene *s, uint64_t gpa, uint64_t length) {
        bool is = pb_ensure(s->client, gpa, length, PB_READ) == 0;

        if (!is)
                (void) pb_heal(s->client, gpa, length, NULL);
        return is;
}

/* Sooner or later: the time-out is short, and the machine may be slow. */
static void comes(struct scene *s, uint64_t first, uint64_t n) {
        cr_assert(EVENTUALLY(is_had(s, first * TEST_PAGE, n * TEST_PAGE)), "%s", pb_explain(s->client));
        cr_assert(content_is_right(s->client, images, first * TEST_PAGE, n * TEST_PAGE));
}

/* One that always does: an error for what it lies about, and the right bytes for the rest. */
static void lies_for_ever(enum lie lie) {
        struct scene s;

        scene_start(&s, lie, -1, "--source-retries=2");
        cr_assert_eq(pb_ensure(s.client, lied_page * TEST_PAGE, 1, PB_READ), -EIO);
        cr_assert(strstr(pb_explain(s.client), s.liar.nbd.uri), "%s", pb_explain(s.client));
        cr_assert(is_zero((char *) get_region(s.client, 0).addr + lied_page * TEST_PAGE, TEST_PAGE));
        comes(&s, 0, lied_page - 64);
        comes(&s, lied_page + 64, N_PAGES - lied_page - 64);
        scene_stop(&s);
}

#define LIES(name, lie)                          \
        TEST(lies, name##_now_and_then) {        \
                lies_and_mends(lie, 3);          \
        }                                        \
        TEST(lies, name##_for_ever) {            \
                lies_for_ever(lie);              \
        }

LIES(short_answer, LIE_SHORT)
LIES(long_answer, LIE_LONG)
LIES(answer_outside_the_request, LIE_OFFSET)
LIES(answer_to_what_was_not_asked, LIE_COOKIE)
LIES(noise, LIE_MAGIC)
LIES(end_in_the_middle, LIE_HANG_UP)
LIES(silence_about_one_page, LIE_SILENT)

TEST(lies, server_that_stops_answering_is_connected_to_again) {
        lies_and_mends(LIE_DEAF, 1);
}

/* Four requests, answered from the last to the first. */
TEST(lies, answers_in_another_order_are_fine) {
        struct ensure_call calls[4];
        struct scene s;

        scene_start(&s, LIE_BACKWARDS, 0, "--source-retries=100");
        for (unsigned i = 0; i < 4; i++)
                ensure_start(&calls[i], s.client, (lied_page + 100 * i) / 16 * 16 * TEST_PAGE, 2 * TEST_PAGE, PB_READ);
        for (unsigned i = 0; i < 4; i++) {
                cr_assert_eq(ensure_wait(&calls[i]), 0, "%s", calls[i].reason);
                cr_assert(content_is_right(s.client, images, calls[i].gpa, calls[i].length));
        }
        scene_stop(&s);
}

TEST(lies, extents_beyond_the_end_harm_nothing) {
        struct scene s;

        scene_start(&s, LIE_EXTENTS_LONG, 0, "--source-retries=2");
        cr_assert(ensure_is_right(s.client, images, 0, N_PAGES * TEST_PAGE));
        scene_stop(&s);
}

/* A hole that does not say that it reads as zeros may be anything. */
TEST(lies, only_what_is_said_to_be_zeros_is) {
        struct scene s;

        scene_start(&s, LIE_EXTENTS_ODD, 0, "--source-retries=2");
        cr_assert(EVENTUALLY(get_stats(s.client).pages_data > 0));
        cr_assert(EVENTUALLY(get_stats(s.client).pages_data == test_image_count_data(&image)));
        cr_assert(ensure_is_right(s.client, images, 0, N_PAGES * TEST_PAGE));
        scene_stop(&s);
}
