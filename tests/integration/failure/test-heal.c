/* SPDX-License-Identifier: MIT */
/* A poisoned page that is healed is absent again: who wants it asks the source. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "protocol/message.h"
#include "tests/integration/failure/failure.h"
#include "tests/integration/peer/peer.h"

static int read_page(struct failure *f, uint64_t page) {
        return pb_ensure(f->client, page * TEST_PAGE, 1, PB_READ);
}

TEST(heal, page_comes_when_it_is_wanted_again) {
        struct failure f;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        failure_break(&f, 7);
        cr_assert_eq(read_page(&f, 7), -EIO);
        test_gate_open(&f.gate);
        cr_assert_eq(read_page(&f, 7), -EIO, "it was not healed yet");
        cr_assert_eq(failure_heal(&f, 7, 1), 1);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        cr_assert(!pb_is_present(f.client, 7 * TEST_PAGE, 1), "healing alone fetches nothing");
        cr_assert(failure_page_is_right(&f, 7));
        failure_stop(&f);
}

/* What a person reads while nothing is given up yet. */
TEST(heal, source_that_fails_for_a_while_is_in_the_log_with_its_end) {
        struct ensure_call call;
        struct failure f;


        failure_start(&f, "", "--source-retries=100", "--seccomp=on");
        failure_break(&f, 7);
        ensure_start(&call, f.client, 7 * TEST_PAGE, 1, PB_READ);
        cr_assert(test_broker_will_log(&f.broker, "reads fail and are tried again; the first was of page 7 (offset 0x7000): "
                                                  "Input/output error\n"));
        test_gate_open(&f.gate);
        cr_assert_eq(ensure_wait(&call), 0);
        test_image_assert(&f.image, 7, 1, pb_translate(f.client, 7 * TEST_PAGE, TEST_PAGE));
        cr_assert(test_broker_will_log(&f.broker, " can be read again; "));
        failure_stop(&f);
}

TEST(heal, is_of_the_range_that_was_named) {
        static const uint64_t pages[] = { 0, 7, 63, 64, 700, 1023 };
        struct failure f;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        for (unsigned i = 0; i < 6; i++) {
                failure_break(&f, pages[i]);
                cr_assert_eq(read_page(&f, pages[i]), -EIO);
        }
        test_gate_open(&f.gate);
        cr_assert_eq(failure_heal(&f, 7, 57), 2); /* 7, 63 */
        cr_assert_eq(failure_heal(&f, 7, 57), 0);
        cr_assert(failure_page_is_right(&f, 7) && failure_page_is_right(&f, 63));
        cr_assert_eq(read_page(&f, 64), -EIO);
        cr_assert_eq(failure_heal(&f, 65, 0), 2); /* 700 and the last one: up to the end */
        cr_assert(failure_page_is_right(&f, 700) && failure_page_is_right(&f, 1023));
        cr_assert_eq(read_page(&f, 0), -EIO);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 2);
        failure_stop(&f);
}

TEST(heal, page_that_fails_again_is_poisoned_for_the_new_reason) {
        struct failure f;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        failure_break(&f, 7);
        cr_assert_eq(read_page(&f, 7), -EIO);
        cr_assert(strstr(pb_explain(f.client), "Input/output error"), "%s", pb_explain(f.client));
        test_gate_open(&f.gate);
        test_gate_cut(&f.gate, 7 * TEST_PAGE, TEST_PAGE, 0, TEST_GATE_ALWAYS);
        cr_assert_eq(failure_heal(&f, 0, 0), 1);
        cr_assert_eq(read_page(&f, 7), -EIO);
        cr_assert(strstr(pb_explain(f.client), "ended before its own size"), "%s", pb_explain(f.client));
        cr_assert_eq(get_stats(f.client).pages_poisoned, 1);
        failure_stop(&f);
}

static long mtime_nsec(struct failure *f) {
        struct stat st;

        cr_assert_eq(stat(f->gate.path, &st), 0);
        return st.st_mtim.tv_sec % 1000 * 1000000000l + st.st_mtim.tv_nsec;
}

TEST(heal, is_refused_over_a_source_that_has_changed) {
        struct failure f;
        uint64_t healed;
        long before;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        before = mtime_nsec(&f);
        failure_break(&f, 7);
        cr_assert_eq(read_page(&f, 7), -EIO);
        test_gate_open(&f.gate);
        test_gate_touch(&f.gate);
        cr_assert(EVENTUALLY(mtime_nsec(&f) != before)); /* the kernel asks the file system anew after a while */
        cr_assert_eq(failure_heal_as(&f, PB_AS_VMM, 0, 7, 1, &healed), -ESTALE);
        cr_assert_eq(failure_heal_as(&f, PB_AS_VMM, UINT32_MAX, 0, 0, &healed), -ESTALE);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 1);
        cr_assert_eq(read_page(&f, 7), -EIO);
        failure_stop(&f);
}

TEST(heal, is_the_vmms_alone_and_of_pages_that_exist) {
        struct failure f;
        uint64_t healed = 0;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        failure_break(&f, 7);
        cr_assert_eq(read_page(&f, 7), -EIO);
        cr_assert_eq(failure_heal_as(&f, PB_AS_DEVICE, 0, 7, 1, &healed), -EACCES);
        cr_assert_eq(failure_heal_as(&f, PB_AS_OBSERVER, 0, 7, 1, &healed), -EACCES);
        cr_assert_eq(failure_heal_as(&f, PB_AS_VMM, 1, 7, 1, &healed), -ENOENT);
        cr_assert_eq(failure_heal_as(&f, PB_AS_VMM, 0, FAILURE_PAGES, 0, &healed), -EINVAL);
        cr_assert_eq(failure_heal_as(&f, PB_AS_VMM, 0, 7, FAILURE_PAGES - 6, &healed), -EINVAL);
        cr_assert_eq(failure_heal_as(&f, PB_AS_VMM, 0, 7, UINT64_MAX, &healed), -EINVAL);
        cr_assert_eq(failure_heal_as(&f, PB_AS_VMM, UINT32_MAX, 7, 1, &healed), -EINVAL);
        cr_assert_eq(get_stats(f.client).pages_poisoned, 1);
        cr_assert_eq(failure_heal_as(&f, PB_AS_VMM, UINT32_MAX, 0, 0, &healed), 0);
        cr_assert_eq(healed, 1);
        failure_stop(&f);
}

TEST(heal, comes_by_itself_after_the_interval) {
        struct failure f;

        failure_start(&f, "", "--heal-interval=0.05", "--seccomp=on");
        for (unsigned round = 0; round < 3; round++) { /* the timer goes on */
                failure_break(&f, 7 + round);
                cr_assert_eq(read_page(&f, 7 + round), -EIO);
                test_gate_open(&f.gate);
                cr_assert(EVENTUALLY(read_page(&f, 7 + round) == 0));
                cr_assert(failure_page_is_right(&f, 7 + round));
        }
        failure_stop(&f);
}

TEST(heal, lets_the_fill_finish) {
        struct pb_stats stats;
        struct failure f;

        failure_start_source(&f);
        failure_break(&f, 1000); /* before the fill can have it */
        failure_start_broker(&f, "", "--fill=on", "--source-retries=1"); /* the second read is of one page */
        cr_assert_eq(read_page(&f, 1000), -EIO);
        cr_assert(EVENTUALLY(get_stats(f.client).pages_present == FAILURE_PAGES - 1));
        test_gate_open(&f.gate);
        cr_assert_eq(failure_heal(&f, 0, 0), 1);
        cr_assert(EVENTUALLY(get_stats(f.client).complete));
        stats = get_stats(f.client);
        cr_assert_eq(stats.pages_present, FAILURE_PAGES);
        cr_assert(failure_page_is_right(&f, 1000));
        failure_stop(&f);
}

/* ---- peers ---- */

static void thread_goes_on(const char *more, const char *option) {
        struct peer_task task = { .run = peer_tell_and_read, .page = 7, .n = 1 };
        struct steps steps;
        struct failure f;
        pid_t pid;

        require_uffd();
        steps = steps_new();
        failure_start(&f, more, option, "--fault-around=4K");
        failure_break(&f, 7);
        task.broker = &f.broker;
        task.images = f.images;
        task.steps = steps.child;
        pid = peer_start(&task);
        cr_assert(step_await(steps.parent));
        cr_assert(EVENTUALLY(get_stats(f.client).pages_poisoned > 0)); /* in a huge page its neighbours in the read too */
        test_gate_open(&f.gate);
        cr_assert_geq(failure_heal(&f, 0, 0), 1);
        cr_assert_eq(test_child_wait(pid), 0); /* with the right bytes */
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        steps_done(&steps);
        failure_stop(&f);
}

TEST(heal, thread_that_waits_through_userfaultfd_goes_on) {
        thread_goes_on("", "--io=auto");
}

TEST(heal, thread_that_waits_through_userfaultfd_goes_on_with_worker_threads) {
        thread_goes_on("", "--io=threads");
}

TEST(heal, thread_that_waits_for_a_huge_page_goes_on) {
        require_hugepages(2, HUGE_2M);
        thread_goes_on(",huge=2M", "--io=auto");
}

/* ---- races ---- */

struct reader {
        struct failure *f;
        uint64_t seed;
        bool *stop;
};

/* Right bytes or -EIO, nothing else. */
static void *read_at_random(void *arg) {
        struct reader *self = arg;

        while (!__atomic_load_n(self->stop, __ATOMIC_RELAXED)) {
                uint64_t page = next_random(&self->seed) % 64, gpa = page * TEST_PAGE;
                int r = pb_ensure(self->f->client, gpa, TEST_PAGE, PB_READ);

                if (r != 0 && r != -EIO)
                        return self;
                if (r == 0 && !content_is_right(self->f->client, self->f->images, gpa, TEST_PAGE))
                        return self;
        }
        return NULL;
}

/* Poison and heal take turns under readers. */
TEST(heal, races_with_those_who_ask) {
        struct reader readers[4];
        pthread_t threads[4];
        uint64_t healed = 0;
        struct failure f;
        bool stop = false;
        void *result;

        failure_start(&f, "", "--io=auto", "--seccomp=on");
        for (uint64_t page = 0; page < 64; page += 2)
                failure_break(&f, page);
        for (unsigned i = 0; i < 4; i++) {
                readers[i] = (struct reader) { &f, i + 1, &stop };
                cr_assert_eq(pthread_create(&threads[i], NULL, read_at_random, &readers[i]), 0);
        }
        cr_assert(EVENTUALLY((healed += failure_heal(&f, 0, 0)) > 200));
        test_gate_open(&f.gate);
        (void) failure_heal(&f, 0, 0);
        __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
        for (unsigned i = 0; i < 4; i++)
                cr_assert(pthread_join(threads[i], &result) == 0 && !result, "reader %u", i);
        (void) failure_heal(&f, 0, 0);
        cr_assert(ensure_is_right(f.client, f.images, 0, 64 * TEST_PAGE));
        cr_assert_eq(get_stats(f.client).pages_poisoned, 0);
        failure_stop(&f);
}
