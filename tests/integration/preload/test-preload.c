/* SPDX-License-Identifier: MIT */
/* An unmodified program under pagebroker-run: what it sees is the image, and comes when it is touched. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/integration/preload/run-target.h"

#define N_PAGES 512u
#define FEW_PAGES 32u /* one fault with what it brings along */

struct setup {
        struct test_image image;
        struct test_broker broker;
};

/* The background fill is off: a page that is here was asked for. */
static void setup_start(struct setup *setup) {
        require_uffd();
        test_image_make(&setup->image, &(struct test_image_spec) { .n_pages = N_PAGES, .seed = 7, .data_ppm = 700000 });
        TEST_BROKER_START(&setup->broker, TEST_MEMORY("ram0", &setup->image), "--fill=off");
}

static void setup_stop(struct setup *setup) {
        test_broker_stop(&setup->broker);
        test_image_unlink(&setup->image);
}

static bool said(const char *text) {
        return strstr(target_said, text) != NULL;
}

#define ASSERT_SAID(text) cr_assert(said(text), "expected '%s', it said: %s", (text), target_said)

/* Nothing was fetched ahead of need; and everything is right when it is touched. */
static void assert_nothing_came_then_check(struct setup *setup, const char *action) {
        struct pb_stats stats = target_stats(&setup->broker);

        cr_assert_eq(stats.pages_present, 0, "%lu pages came by %s alone", (unsigned long) stats.pages_present, action);
        TARGET_SUCCEEDS(&setup->broker, &setup->image, "map", "check");
}

TEST(preload, a_mapping_shows_the_image_and_only_touched_pages_come) {
        struct pb_stats stats;
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "touch:100");
        cr_assert(EVENTUALLY(target_stats(&setup.broker).pages_present > 0)); /* counted after the wake */
        stats = target_stats(&setup.broker);
        cr_assert(stats.pages_present <= FEW_PAGES, "%lu pages came",
                  (unsigned long) stats.pages_present);
        cr_assert(stats.faults_peer > 0);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "check");
        cr_assert_str_empty(target_said);
        setup_stop(&setup);
}

TEST(preload, a_mapping_that_is_only_readable_is_lazy_too) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map-readable", "touch:100");
        cr_assert_leq(target_stats(&setup.broker).pages_present, FEW_PAGES);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map-readable", "check");
        setup_stop(&setup);
}

TEST(preload, system_calls_wait_for_absent_pages) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "check-by-system-calls");
        setup_stop(&setup);
}

/* What docs/ACCESS.md calls not covered: reads by descriptor, and mappings that libc knows nothing of. They do no harm. */
TEST(preload, what_goes_past_the_library_is_zeros_and_changes_nothing) {
        struct setup setup;

        require_uffd();
        test_image_make(&setup.image, &(struct test_image_spec) { .n_pages = N_PAGES, .seed = 7 });
        TEST_BROKER_START(&setup.broker, TEST_MEMORY("ram0", &setup.image), "--fill=off");
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "open", "look-past-the-library");
        cr_assert_eq(target_stats(&setup.broker).pages_present, 0);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "check");
        setup_stop(&setup);
}

TEST(preload, two_mappings_and_a_fixed_one_with_an_offset_are_lazy) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "map", "map-upper-half", "touch:3", "check");
        setup_stop(&setup);
}

TEST(preload, what_is_unmapped_or_mapped_over_takes_no_room) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map-at-many-addresses", "map", "check");
        setup_stop(&setup);
}

TEST(preload, another_user_opens_the_memory_through_proc) {
        struct setup setup;
        char allow[32];
        int status;

        require_uffd();
        require_other_uid();
        test_image_make(&setup.image, &(struct test_image_spec) { .n_pages = N_PAGES, .seed = 8 });
        cr_assert(chmod(setup.image.path, 0644) == 0);
        (void) snprintf(allow, sizeof allow, "--allow=vmm:%d", TEST_OTHER_UID);
        TEST_BROKER_START(&setup.broker, TEST_MEMORY("ram0", &setup.image), "--fill=off", allow, "--allow=observer:0");
        status = target_run(&setup.broker, &setup.image,
                            &(struct target_run) { .uid = TEST_OTHER_UID,
                                                   .actions =
                                                           (const char *const[]) { "map", "touch:9", "check", NULL } });
        cr_assert_eq(status, 0, "ended with %d: %s", status, target_said);
        setup_stop(&setup);
}

TEST(preload, huge_pages_are_lazy) {
        struct setup setup;

        require_uffd();
        require_hugepages(4, HUGE_2M);
        test_image_make(&setup.image, &(struct test_image_spec) { .n_pages = 4 * 512, .seed = 9, .data_ppm = 500000 });
        TEST_BROKER_START(&setup.broker, test_memory("ram0", &setup.image, ",huge=2M"), "--fill=off");
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "touch:700");
        cr_assert(EVENTUALLY(target_stats(&setup.broker).pages_present == 512));
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "check");
        setup_stop(&setup);
}

/* ---- what would bring everything at once ---- */

TEST(preload, map_populate_fills_no_holes) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map-populate", "check");
        setup_stop(&setup);
}

TEST(preload, map_populate_is_left_out) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map-populate");
        ASSERT_SAID("MAP_POPULATE is left out");
        assert_nothing_came_then_check(&setup, "MAP_POPULATE");
        setup_stop(&setup);
}

TEST(preload, map_locked_fills_no_holes) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map-locked", "check");
        setup_stop(&setup);
}

TEST(preload, map_locked_locks_pages_as_they_come) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map-locked");
        assert_nothing_came_then_check(&setup, "MAP_LOCKED");
        setup_stop(&setup);
}

TEST(preload, mlockall_after_the_mapping_locks_pages_as_they_come) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "mlockall-current");
        ASSERT_SAID("mlockall()");
        assert_nothing_came_then_check(&setup, "mlockall(MCL_CURRENT)");
        setup_stop(&setup);
}

TEST(preload, mlockall_before_the_mapping_fills_no_holes) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "mlockall-future", "map", "check");
        setup_stop(&setup);
}

TEST(preload, mlockall_before_the_mapping_fetches_nothing) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "mlockall-future", "map");
        assert_nothing_came_then_check(&setup, "mlockall(MCL_FUTURE)");
        setup_stop(&setup);
}

TEST(preload, mlock_locks_pages_as_they_come) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "mlock");
        ASSERT_SAID("mlock()");
        assert_nothing_came_then_check(&setup, "mlock()");
        setup_stop(&setup);
}

TEST(preload, preallocation_by_madvise_is_left_out) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "populate");
        ASSERT_SAID("preallocation of guest memory is left out");
        assert_nothing_came_then_check(&setup, "MADV_POPULATE_WRITE");
        setup_stop(&setup);
}

/* ---- what cannot be lazy ---- */

TEST(preload, a_private_mapping_is_refused) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "private-is-refused", "map", "check");
        ASSERT_SAID("private mapping");
        setup_stop(&setup);
}

TEST(preload, a_mapping_of_a_readonly_descriptor_is_refused) {
        struct setup setup;

        setup_start(&setup);
        require_root(); /* the descriptor is opened behind the library's back */
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "readonly-is-refused");
        ASSERT_SAID("read-only descriptor");
        setup_stop(&setup);
}

TEST(preload, mremap_shrinks_and_never_moves) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "remap", "check");
        ASSERT_SAID("mremap()");
        setup_stop(&setup);
}

TEST(preload, the_rest_is_served_when_a_page_is_mapped_again) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "map-a-page-again", "check");
        cr_assert_str_empty(target_said);
        setup_stop(&setup);
}

TEST(preload, a_part_can_be_replaced_by_other_memory) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "replace-middle");
        cr_assert_str_empty(target_said);
        setup_stop(&setup);
}

TEST(preload, a_mapping_is_refused_when_the_broker_has_gone) {
        struct setup setup;
        char kill[32];

        setup_start(&setup);
        (void) snprintf(kill, sizeof kill, "kill:%d", (int) setup.broker.pid);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "open", kill, "map-is-refused");
        ASSERT_SAID("could not register");
        test_broker_kill(&setup.broker);
        test_image_unlink(&setup.image);
}

TEST(preload, a_mapping_is_refused_when_the_program_closed_our_descriptors) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "open", "close-everything", "map-is-refused");
        ASSERT_SAID("has closed our connection");
        setup_stop(&setup);
}

/* ---- other processes ---- */

TEST(preload, a_forked_child_sees_the_image) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "fork-check", "fork-fork-check", "check");
        setup_stop(&setup);
}

TEST(preload, a_child_needs_nothing_for_what_was_unmapped_before) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "unmap", "fork-nothing");
        cr_assert_str_empty(target_said);
        setup_stop(&setup);
}

TEST(preload, a_forked_child_may_map_by_itself) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "open", "fork-map-check", "map", "check");
        setup_stop(&setup);
}

TEST(preload, a_child_that_inherits_no_guest_memory_needs_no_broker) {
        struct setup setup;
        char kill[32];

        setup_start(&setup);
        (void) snprintf(kill, sizeof kill, "kill:%d", (int) setup.broker.pid);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "dontfork", kill, "fork-nothing");
        test_broker_kill(&setup.broker);
        test_image_unlink(&setup.image);
}

TEST(preload, a_child_whose_memory_cannot_be_registered_ends) {
        struct setup setup;
        char kill[32];

        setup_start(&setup);
        (void) snprintf(kill, sizeof kill, "kill:%d", (int) setup.broker.pid);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", kill, "fork-ends");
        ASSERT_SAID("a forked child ends here");
        test_broker_kill(&setup.broker);
        test_image_unlink(&setup.image);
}

TEST(preload, a_helper_inherits_nothing) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "map", "exec-helper", "check");
        cr_assert_str_empty(target_said);
        setup_stop(&setup);
}

TEST(preload, a_sandboxed_program_maps_after_its_filter) {
        struct setup setup;

        setup_start(&setup);
        TARGET_SUCCEEDS(&setup.broker, &setup.image, "open", "seccomp", "map", "check");
        setup_stop(&setup);
}

TEST(preload, a_wrapper_may_stand_in_front) {
        struct setup setup;
        int status;

        setup_start(&setup);
        status = target_run(&setup.broker, &setup.image,
                            &(struct target_run) {
                                    .wrapper = (const char *const[]) { "sh", "-c", "exec \"$@\"", "sh", NULL },
                                    .actions = (const char *const[]) { "map", "touch:1", NULL } });
        cr_assert_eq(status, 0, "ended with %d: %s", status, target_said);
        cr_assert_leq(target_stats(&setup.broker).pages_present, FEW_PAGES);
        setup_stop(&setup);
}

TEST(preload, a_program_that_lost_the_library_finds_no_guest_memory) {
        struct setup setup;
        int status;

        setup_start(&setup);
        status = target_run(&setup.broker, &setup.image,
                            &(struct target_run) { .wrapper = (const char *const[]) { "env", "-u", "LD_PRELOAD", NULL },
                                                   .actions = (const char *const[]) { "map", NULL } });
        cr_assert_eq(status, 2, "ended with %d: %s", status, target_said);
        ASSERT_SAID("No such file");
        setup_stop(&setup);
}

TEST(preload, a_program_whose_user_may_not_be_the_vmm_is_told_so) {
        struct setup setup;
        int status;

        setup_start(&setup);
        require_root();
        require_program("setpriv");
        status = target_run(&setup.broker, &setup.image,
                            &(struct target_run) { .wrapper = (const char *const[]) { "setpriv", "--reuid=65534",
                                                                                      "--clear-groups", NULL },
                                                   .actions = (const char *const[]) { "map", NULL } });
        cr_assert_eq(status, 2, "ended with %d: %s", status, target_said);
        ASSERT_SAID("there is no guest memory here");
        setup_stop(&setup);
}

TEST(preload, a_wrapper_may_change_the_user) {
        struct setup setup;
        int status;

        require_uffd();
        require_root();
        require_other_uid();
        require_program("setpriv");
        test_image_make(&setup.image, &(struct test_image_spec) { .n_pages = N_PAGES, .seed = 8 });
        cr_assert(chmod(setup.image.path, 0644) == 0);
        TEST_BROKER_START(&setup.broker, TEST_MEMORY("ram0", &setup.image), "--fill=off", "--allow=vmm:65534",
                          "--allow=vmm:0", "--allow=observer:0");
        status = target_run(&setup.broker, &setup.image,
                            &(struct target_run) { .wrapper = (const char *const[]) { "setpriv", "--reuid=65534",
                                                                                      "--clear-groups", NULL },
                                                   .actions = (const char *const[]) { "map", "check", NULL } });
        cr_assert_eq(status, 0, "ended with %d: %s", status, target_said);
        setup_stop(&setup);
}
