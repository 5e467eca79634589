/* SPDX-License-Identifier: MIT */
/* Working sets over the bus: what was recorded comes out, once and for whoever asks; what goes in is looked at. */
#include "protocol/working-set.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/integration/bus/support.h"
#include "tests/lib/gate.h"

#define PAGES 1024u
#define ERROR "org.pagebroker1.Error."

static struct test_image image;
static const uint64_t wanted[] = { 900, 3, 4, 500, 64, 63 };

static void begin(struct scene *ret) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 61, .n_pages = PAGES });
        SCENE_START(ret, TEST_MEMORY("ram0", &image), "--fill=off");
}

static void end(struct scene *scene) {
        scene_stop(scene);
        test_image_unlink(&image);
}

static uint64_t start(sd_bus *us, uint64_t present, bool fill) {
        sd_bus_message *reply = call(us, "StartRecording", "");
        uint64_t id = 0, n = 0;
        int on = -1;

        cr_assert(sd_bus_message_read(reply, "ttb", &id, &n, &on) >= 0);
        cr_assert(id > 0 && n == present && on == fill, "%llu pages present, fill %d", (unsigned long long) n, on);
        (void) sd_bus_message_unref(reply);
        return id;
}

static uint64_t stop(sd_bus *us, uint64_t *ret_size) {
        sd_bus_message *reply = call(us, "StopRecording", "");
        uint64_t id = 0, pages, entries;

        cr_assert(sd_bus_message_read(reply, "tttt", &id, ret_size, &pages, &entries) >= 0);
        (void) sd_bus_message_unref(reply);
        return id;
}

static void forget(sd_bus_message *reply) {
        (void) sd_bus_message_unref(reply);
}

/* By parts of `step` bytes. To be freed. */
static void *fetch(sd_bus *us, uint64_t id, uint64_t size, uint32_t step) {
        uint8_t *file = malloc(size);

        cr_assert(file);
        for (uint64_t at = 0; at < size;) {
                sd_bus_message *reply = call(us, "ReadRecording", "ttu", id, at, step);
                const void *part;
                size_t n;

                cr_assert(sd_bus_message_read_array(reply, 'y', &part, &n) > 0 && n > 0 && n <= step && n <= size - at);
                memcpy(file + at, part, n);
                at += n;
                forget(reply);
        }
        return file;
}

static void want_pages(struct scene *scene) {
        pb_client *client = test_connect(&scene->broker, PB_ROLE_DEVICE);

        /* Neighbours at once: that they are one run must not depend on how soon the second one is wanted. */
        for (size_t i = 0, n; i < ELEMENTS(wanted); i += n) {
                for (n = 1; i + n < ELEMENTS(wanted) && wanted[i + n] == wanted[i] + n;)
                        n++;
                test_ensure_and_check(client, &image, wanted[i] * TEST_PAGE, n * TEST_PAGE);
        }
        client = test_disconnect(client);
}

static void assert_is_what_was_wanted(const void *file, uint64_t size) {
        struct working_set_view view = {};
        uint64_t n = 0;

        cr_assert_null(working_set_check(file, size, &view), "%s", working_set_check(file, size, &view));
        cr_assert_str_eq(view.header->vm, "test");
        for (uint64_t i = 0; i < view.header->n_entries; i++)
                for (uint64_t page = 0; page < view.entries[i].n_pages; page++, n++)
                        cr_assert_eq(view.entries[i].first_page + page, wanted[n]);
        cr_assert_eq(n, ELEMENTS(wanted));
}

static void *record(struct scene *scene, uint64_t *ret_size) {
        uint64_t id = start(scene->us, 0, false);

        want_pages(scene);
        cr_assert_eq(stop(scene->us, ret_size), id);
        return fetch(scene->us, id, *ret_size, 1000);
}

TEST(working_set, what_was_wanted_comes_out) {
        _cleanup_free_ void *file = NULL;
        struct scene scene;
        uint64_t size;

        begin(&scene);
        file = record(&scene, &size);
        assert_is_what_was_wanted(file, size);
        cr_assert_eq(VM_NUMBER(scene.us, "Recording"), 0);
        end(&scene);
}

TEST(working_set, properties_tell_how_far_a_recording_is) {
        struct scene scene;
        uint64_t size, id;

        begin(&scene);
        cr_assert_eq(VM_NUMBER(scene.us, "Recording"), 0);
        cr_assert_eq(VM_NUMBER(scene.us, "RecordingSince"), 0);
        id = start(scene.us, 0, false);
        want_pages(&scene);
        cr_assert_eq(VM_NUMBER(scene.us, "Recording"), 1);
        cr_assert_eq(VM_NUMBER(scene.us, "RecordingSince"), id);
        cr_assert_eq(VM_NUMBER(scene.us, "RecordedPages"), ELEMENTS(wanted));
        cr_assert_geq(VM_NUMBER(scene.us, "RecordedEntries"), 1);
        (void) stop(scene.us, &size);
        cr_assert_eq(VM_NUMBER(scene.us, "Recording"), 0);
        end(&scene);
}

/* An answer may be lost, and whoever asked may be killed: it is kept until somebody says that he has it. */
TEST(working_set, is_kept_until_it_is_dropped) {
        _cleanup_free_ void *file = NULL;
        uint64_t id, size, again;
        struct scene scene;
        sd_bus *other;

        begin(&scene);
        id = start(scene.us, 0, false);
        want_pages(&scene);
        cr_assert_eq(stop(scene.us, &size), id);
        other = test_bus_connect(&scene.bus);
        cr_assert_eq(stop(other, &again), id);
        cr_assert_eq(again, size);
        file = fetch(other, id, size, UINT32_MAX);
        assert_is_what_was_wanted(file, size);
        forget(call(other, "DropRecording", "t", id));
        cr_assert(call_fails(other, ERROR "NoSuchRecording", "StopRecording", ""));
        cr_assert(call_fails(other, ERROR "NoSuchRecording", "ReadRecording", "ttu", id, (uint64_t) 0, (uint32_t) 1));
        other = test_bus_disconnect(other);
        end(&scene);
}

TEST(working_set, one_recording_at_a_time) {
        struct scene scene;
        uint64_t size, id, next;

        begin(&scene);
        cr_assert(call_fails(scene.us, ERROR "NoSuchRecording", "StopRecording", ""));
        id = start(scene.us, 0, false);
        cr_assert(call_fails(scene.us, ERROR "Recording", "StartRecording", ""));
        cr_assert_eq(stop(scene.us, &size), id);
        next = start(scene.us, 0, false);
        cr_assert_neq(next, id);
        cr_assert(call_fails(scene.us, ERROR "NoSuchRecording", "DropRecording", "t", id));
        cr_assert_eq(stop(scene.us, &size), next);
        cr_assert(call_fails(scene.us, ERROR "BadRange", "ReadRecording", "ttu", next, size + 1, (uint32_t) 1));
        end(&scene);
}

static uint32_t flags_of(sd_bus *us, uint64_t *ret_present) {
        _cleanup_free_ struct pb_working_set_header *header = NULL;
        uint64_t size, id = stop(us, &size);

        header = fetch(us, id, size, 1 << 18);
        *ret_present = header->pages_present;
        return header->flags;
}

TEST(working_set, says_that_the_fill_was_on) {
        struct scene scene;
        uint64_t present;

        begin(&scene);
        want_pages(&scene);
        /* Who wants a page has it before it is counted. */
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "PagesPresent") == ELEMENTS(wanted)));
        (void) start(scene.us, ELEMENTS(wanted), false);
        cr_assert_eq(flags_of(scene.us, &present), 0);
        cr_assert_eq(present, ELEMENTS(wanted));
        (void) start(scene.us, ELEMENTS(wanted), false);
        /* A byte a second: it is on, and not done. */
        forget(call(scene.us, "SetFill", "bt", 1, (uint64_t) 1));
        cr_assert(EVENTUALLY(VM_NUMBER(scene.us, "Fill") == 1));
        cr_assert_eq(flags_of(scene.us, &present), PB_WORKING_SET_FILL);
        forget(call(scene.us, "StartRecording", ""));
        cr_assert(test_broker_will_log(&scene.broker, "the background fill is on"));
        cr_assert_eq(flags_of(scene.us, &present), PB_WORKING_SET_FILL);
        end(&scene);
}

TEST(working_set, of_a_vm_that_is_complete_is_refused) {
        struct scene scene;
        pb_client *client;

        begin(&scene);
        client = test_connect(&scene.broker, PB_ROLE_DEVICE);
        test_ensure(client, 0, PAGES * TEST_PAGE, PB_READ);
        client = test_disconnect(client);
        cr_assert(EVENTUALLY(string_is(scene.us, VM, VM_INTERFACE, "State", "complete")));
        cr_assert(call_fails(scene.us, ERROR "Complete", "StartRecording", ""));
        end(&scene);
}

/* ---- replay ---- */

static int send_part(sd_bus *us, uint64_t size, uint64_t offset, const void *data, size_t n) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *message = NULL, *reply = NULL;

        cr_assert(sd_bus_message_new_method_call(us, &message, SERVICE, VM, VM_INTERFACE, "SendWorkingSet") >= 0);
        cr_assert(sd_bus_message_append(message, "tt", size, offset) >= 0);
        cr_assert(sd_bus_message_append_array(message, 'y', data, n) >= 0);
        return sd_bus_call(us, message, 0, NULL, &reply);
}

static void send_file(sd_bus *us, const void *file, uint64_t size, uint64_t step) {
        for (uint64_t at = 0; at < size; at += step)
                cr_assert(send_part(us, size, at, (const char *) file + at, min_u64(step, size - at)) >= 0);
}

static void replay(sd_bus *us, bool force, const char *notice) {
        sd_bus_message *reply = call(us, "ReplayWorkingSet", "b", force);
        uint64_t pages = 0, runs = 0;
        const char *said = NULL;

        cr_assert(sd_bus_message_read(reply, "tts", &pages, &runs, &said) >= 0);
        cr_assert_eq(pages, ELEMENTS(wanted));
        cr_assert_eq(runs, 4);
        cr_assert(strstr(said, notice), "%s", said);
        forget(reply);
        cr_assert(EVENTUALLY(VM_NUMBER(us, "Replaying") == 0));
        cr_assert_eq(VM_NUMBER(us, "ReplayPages"), ELEMENTS(wanted));
        cr_assert_eq(VM_NUMBER(us, "ReplayedPages"), ELEMENTS(wanted));
}

static void assert_has_what_was_wanted(struct scene *scene) {
        pb_client *client = test_connect(&scene->broker, PB_ROLE_DEVICE);

        for (size_t i = 0; i < ELEMENTS(wanted); i++) {
                cr_assert(pb_is_present(client, wanted[i] * TEST_PAGE, TEST_PAGE));
                test_ensure_and_check(client, &image, wanted[i] * TEST_PAGE, TEST_PAGE);
        }
        client = test_disconnect(client);
        cr_assert(EVENTUALLY(VM_NUMBER(scene->us, "PagesPresent") == ELEMENTS(wanted)));
        cr_assert_eq(VM_NUMBER(scene->us, "FaultsLinked"), 0);
}

static void begin_again(struct scene *scene) {
        scene_stop(scene);
        SCENE_START(scene, TEST_MEMORY("ram0", &image), "--fill=off");
}

TEST(working_set, a_file_that_is_sent_is_replayed) {
        _cleanup_free_ void *file = NULL;
        struct scene scene;
        uint64_t size;

        begin(&scene);
        file = record(&scene, &size);
        begin_again(&scene);
        send_file(scene.us, file, size, 100);
        replay(scene.us, false, "");
        assert_has_what_was_wanted(&scene);
        cr_assert(call_fails(scene.us, ERROR "BadWorkingSet", "ReplayWorkingSet", "b", 0), "it is forgotten");
        end(&scene);
}

TEST(working_set, of_another_source_is_replayed_when_forced) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_free_ struct pb_working_set_header *file = NULL;
        struct pb_working_set_memory *memory;
        struct scene scene;
        uint64_t size;

        begin(&scene);
        file = record(&scene, &size);
        memory = (struct pb_working_set_memory *) (file + 1);
        (void) snprintf(memory->source, sizeof memory->source, "file:/another/image");
        memory->inode++;
        begin_again(&scene);
        send_file(scene.us, file, size, size);
        cr_assert(sd_bus_call_method(scene.us, SERVICE, VM, VM_INTERFACE, "ReplayWorkingSet", &error, NULL, "b", 0) <
                  0);
        cr_assert_str_eq(error.name, ERROR "OtherWorkingSet");
        cr_assert(strstr(error.message, "file:/another/image") && strstr(error.message, image.path), "%s",
                  error.message);
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPresent"), 0);
        send_file(scene.us, file, size, size);
        replay(scene.us, true, "file:/another/image");
        assert_has_what_was_wanted(&scene);
        end(&scene);
}

/* With a string that is no text the bus library sends no answer at all. */
TEST(working_set, a_name_in_a_file_that_is_no_text_is_answered_all_the_same) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_free_ struct pb_working_set_header *file = NULL;
        struct pb_working_set_memory *memory;
        struct scene scene;
        uint64_t size;

        begin(&scene);
        file = record(&scene, &size);
        memory = (struct pb_working_set_memory *) (file + 1);
        (void) snprintf(memory->source, sizeof memory->source, "file:/\xff-\033-\xc3");
        memory->inode++;
        begin_again(&scene);
        send_file(scene.us, file, size, size);
        cr_assert(sd_bus_call_method(scene.us, SERVICE, VM, VM_INTERFACE, "ReplayWorkingSet", &error, NULL, "b", 0) <
                  0);
        cr_assert_str_eq(error.name, ERROR "OtherWorkingSet");
        cr_assert(strstr(error.message, "file:/?-?-?"), "%s", error.message);
        send_file(scene.us, file, size, size);
        replay(scene.us, true, "file:/?-?-?");
        assert_has_what_was_wanted(&scene);
        end(&scene);
}

TEST(working_set, files_that_are_none_are_refused) {
        _cleanup_free_ uint8_t *file = NULL;
        struct scene scene;
        uint64_t size;

        begin(&scene);
        file = record(&scene, &size);
        begin_again(&scene);
        cr_assert(call_fails(scene.us, ERROR "BadWorkingSet", "ReplayWorkingSet", "b", 1), "none was sent");
        send_file(scene.us, "nonsense", 8, 8);
        cr_assert(call_fails(scene.us, ERROR "BadWorkingSet", "ReplayWorkingSet", "b", 1), "not one at all");
        ((struct pb_working_set_entry *) (file + size))[-1].first_page = PAGES;
        send_file(scene.us, file, size, size);
        cr_assert(call_fails(scene.us, ERROR "BadWorkingSet", "ReplayWorkingSet", "b", 1), "a page outside the memory");
        cr_assert(send_part(scene.us, size, 0, file, size - 1) >= 0);
        cr_assert(call_fails(scene.us, ERROR "BadWorkingSet", "ReplayWorkingSet", "b", 1), "not all of it");
        cr_assert_eq(VM_NUMBER(scene.us, "PagesPresent"), 0);
        end(&scene);
}

TEST(working_set, parts_that_do_not_fit_are_refused) {
        static const char zeros[(256 << 10) + 1];
        struct scene scene;
        sd_bus *other;

        begin(&scene);
        cr_assert(send_part(scene.us, 0, 0, zeros, 0) < 0, "nothing at all");
        cr_assert(send_part(scene.us, UINT64_MAX, 0, zeros, 1) < 0, "larger than any");
        cr_assert(send_part(scene.us, PB_WORKING_SET_SIZE_MAX + 1, 0, zeros, 1) < 0, "larger than any");
        cr_assert(send_part(scene.us, 1 << 20, 0, zeros, sizeof zeros) < 0, "a part that is too large");
        cr_assert(send_part(scene.us, 100, 0, zeros, 101) < 0, "more than it says");
        cr_assert(send_part(scene.us, 100, 0, zeros, 50) >= 0);
        cr_assert(send_part(scene.us, 100, 49, zeros, 50) < 0, "once more");
        cr_assert(send_part(scene.us, 100, 51, zeros, 49) < 0, "one left out");
        cr_assert(send_part(scene.us, 101, 50, zeros, 51) < 0, "of another size");
        cr_assert(send_part(scene.us, 100, 50, zeros, 51) < 0, "beyond its end");
        cr_assert(send_part(scene.us, 100, UINT64_MAX, zeros, 50) < 0, "an overflow");
        /* Whoever begins takes the place. */
        other = test_bus_connect(&scene.bus);
        cr_assert(send_part(other, 100, 50, zeros, 50) < 0, "another's");
        cr_assert(send_part(other, 60, 0, zeros, 60) >= 0);
        cr_assert(send_part(scene.us, 100, 50, zeros, 50) < 0, "taken over");
        other = test_bus_disconnect(other);
        end(&scene);
}

/* ---- restart ---- */

struct life {
        struct test_broker broker;
        struct test_bus bus;
        sd_bus *us;
        uint64_t epoch;
};

static void live_on(struct life *ret, const char *memory, const char *option) {
        test_bus_start(&ret->bus);
        test_broker_start(&ret->broker,
                          &(struct test_broker_options) {
                                  .supervised = true,
                                  .args = (const char *const[]) { memory, ret->bus.option, "--fill=off", option, NULL },
                          });
        ret->us = test_bus_connect(&ret->bus);
        cr_assert(test_bus_has(ret->us, SERVICE));
}

static void live(struct life *ret, const char *option) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 62, .n_pages = PAGES });
        live_on(ret, TEST_MEMORY("ram0", &image), option);
}

static void await_next(struct life *life) {
        test_broker_wait_next(&life->broker);
        cr_assert(EVENTUALLY(is_process(life->us, life->broker.served)));
}

static void die(struct life *life) {
        test_broker_kill_served(&life->broker);
        await_next(life);
}

static void bury(struct life *life) {
        life->us = test_bus_disconnect(life->us);
        test_broker_stop(&life->broker);
        test_bus_stop(&life->bus);
        test_image_unlink(&image);
}

TEST(working_set, a_recording_that_dies_with_its_broker_is_told_of) {
        struct life life;

        live(&life, "--io=auto");
        (void) start(life.us, 0, false);
        die(&life);
        cr_assert(test_broker_will_log(&life.broker, "was recording, and what it had recorded went with it"));
        cr_assert_eq(VM_NUMBER(life.us, "Recording"), 0);
        cr_assert(call_fails(life.us, ERROR "NoSuchRecording", "StopRecording", ""));
        (void) start(life.us, 0, false);
        bury(&life);
}

TEST(working_set, a_recording_that_has_ended_leaves_no_word) {
        struct life life;
        uint64_t size;

        live(&life, "--io=auto");
        (void) start(life.us, 0, false);
        (void) stop(life.us, &size);
        die(&life);
        cr_assert(test_broker_will_log(&life.broker, "carrying on where"));
        cr_assert_not(test_broker_logged(&life.broker, "was recording"));
        bury(&life);
}

TEST(working_set, a_replay_that_dies_with_its_broker_is_told_of) {
        _cleanup_free_ uint8_t *file = NULL;
        struct pb_working_set_entry *last;
        struct test_gate gate;
        struct life life;
        uint64_t size, id;
        pb_client *client;

        require_fuse();
        test_image_make(&image, &(struct test_image_spec) { .seed = 63, .n_pages = PAGES });
        test_gate_start(&gate, &image);
        live_on(&life, test_gate_memory("ram0", &gate, ""), "--io=auto");
        client = test_connect(&life.broker, PB_ROLE_DEVICE);
        id = start(life.us, 0, false);
        test_ensure_and_check(client, &image, 0, TEST_PAGE);
        cr_assert_eq(stop(life.us, &size), id);
        file = fetch(life.us, id, size, 1 << 18);
        last = (struct pb_working_set_entry *) (file + size) - 1;
        last->first_page = 700;
        test_gate_hold(&gate, 700 * TEST_PAGE, TEST_PAGE);
        send_file(life.us, file, size, size);
        forget(call(life.us, "ReplayWorkingSet", "b", 0));
        test_gate_wait_held(&gate, 700 * TEST_PAGE, TEST_PAGE, 1);
        cr_assert_eq(VM_NUMBER(life.us, "Replaying"), 1);
        cr_assert_eq(VM_NUMBER(life.us, "ReplayedPages"), 0);
        test_broker_kill_served(&life.broker);
        test_gate_open(&gate); /* it is not dead before its read is answered */
        await_next(&life);
        cr_assert(test_broker_will_log(&life.broker, "the broker before this one was replaying"));
        cr_assert_eq(VM_NUMBER(life.us, "Replaying"), 0);
        test_ensure_and_check(client, &image, 700 * TEST_PAGE, TEST_PAGE);
        client = test_disconnect(client);
        bury(&life);
        test_gate_stop(&gate);
}

TEST(working_set, an_option_goes_on_recording_and_says_since_when) {
        _cleanup_free_ struct pb_working_set_header *file = NULL;
        char path[128], option[160];
        struct life life;
        pb_client *client;
        uint64_t size, id;

        (void) snprintf(path, sizeof path, "%s/set-%d.pws", getenv("TMPDIR") ?: "/tmp", (int) getpid());
        (void) snprintf(option, sizeof option, "--working-set-record=%s", path);
        live(&life, option);
        client = test_connect(&life.broker, PB_ROLE_DEVICE);
        test_ensure_and_check(client, &image, 0, 10 * TEST_PAGE);
        die(&life);
        test_ensure_and_check(client, &image, 500 * TEST_PAGE, 20 * TEST_PAGE);
        client = test_disconnect(client);
        id = stop(life.us, &size);
        file = fetch(life.us, id, size, 1 << 18);
        cr_assert_eq(file->flags, PB_WORKING_SET_RESUMED);
        cr_assert_eq(file->pages_present, 10);
        cr_assert_eq(access(path, F_OK), 0);
        bury(&life);
        (void) unlink(path);
}
