/* SPDX-License-Identifier: MIT */
/* pagebrokerctl workingset: from a recording by a real broker, over a file of ours, to the replay by another one. */
#include "protocol/working-set.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "tests/integration/ctl/support.h"
#include "tests/lib/connect.h"

#define N_PAGES 1024u
#define SAYS(text) cr_assert(strstr(ctl_out, (text)), "no '%s' in:\n%s", (text), ctl_out)
#define COMPLAINS(text) cr_assert(strstr(ctl_err, (text)), "no '%s' in:\n%s", (text), ctl_err)

struct scene {
        struct test_bus bus;
        struct test_image image;
        struct test_broker broker;
        pb_client *client;
        char file[128];
};

static const uint64_t wanted[] = { 900, 3, 500, 64 };

static void begin_broker(struct scene *scene) {
        TEST_BROKER_START(&scene->broker, TEST_MEMORY("ram0", &scene->image), scene->bus.option, "--fill=off",
                          "--read-around=4K");
        scene->client = test_connect(&scene->broker, PB_ROLE_DEVICE);
        CTL_ENDS(0, scene->bus.option, "wait");
}

static void end_broker(struct scene *scene) {
        scene->client = pb_disconnect(scene->client);
        test_broker_stop(&scene->broker);
}

static void begin(struct scene *scene) {
        test_bus_start(&scene->bus);
        test_image_make(&scene->image, &(struct test_image_spec) { .n_pages = N_PAGES, .seed = 18 });
        (void) snprintf(scene->file, sizeof scene->file, "%s/set.pws", scene->bus.dir);
        begin_broker(scene);
}

static void end(struct scene *scene) {
        end_broker(scene);
        (void) unlink(scene->file);
        test_image_unlink(&scene->image);
        test_bus_stop(&scene->bus);
}

static bool status_is(const struct scene *scene, const char *key, bool value) {
        json_object *status;
        bool is;

        CTL_ENDS(0, scene->bus.option, "status", "--json");
        status = ctl_json();
        is = ctl_is(status, key) == value;
        (void) json_object_put(status);
        return is;
}

/* `record` in the background, once the broker records. */
static pid_t start_recording(const struct scene *scene) {
        _cleanup_close_ int out = open("/dev/null", O_WRONLY | O_CLOEXEC);
        pid_t pid =
                ctl_start(out, (const char *const[]) { scene->bus.option, "workingset", "record", scene->file, NULL });

        cr_assert(EVENTUALLY(status_is(scene, "recording", true)));
        return pid;
}

static void want_pages(const struct scene *scene) {
        for (size_t i = 0; i < ELEMENTS(wanted); i++)
                test_ensure_and_check(scene->client, &scene->image, wanted[i] * TEST_PAGE, TEST_PAGE);
}

static void record(const struct scene *scene) {
        pid_t pid = start_recording(scene);

        want_pages(scene);
        cr_assert(kill(pid, SIGINT) == 0);
        cr_assert_eq(test_child_wait(pid), 0);
}

static void assert_file_has_what_was_wanted(const struct scene *scene) {
        json_object *set;
        char path[64];

        CTL_ENDS(0, "workingset", "show", scene->file, "--json");
        set = ctl_json();
        cr_assert_str_eq(ctl_text(set, "vm"), "test");
        cr_assert_eq(ctl_number(set, "pages"), ELEMENTS(wanted));
        cr_assert_eq(json_object_array_length(json_object_object_get(set, "entries")), ELEMENTS(wanted));
        for (size_t i = 0; i < ELEMENTS(wanted); i++) {
                (void) snprintf(path, sizeof path, "entries/%zu/first_page", i);
                cr_assert_eq(ctl_number(set, path), wanted[i]);
        }
        cr_assert_eq(ctl_number(set, "memories/0/pages"), ELEMENTS(wanted));
        cr_assert(strstr(ctl_text(set, "memories/0/source"), scene->image.path));
        cr_assert_str_eq(ctl_text(set, "clients/0/class"), "device");
        (void) json_object_put(set);
}

/* The file, and what somebody began to write. */
static unsigned count_files(const struct scene *scene, bool take_away) {
        char pattern[160];
        glob_t found = {};
        unsigned n;

        (void) snprintf(pattern, sizeof pattern, "%s*", scene->file);
        n = glob(pattern, 0, NULL, &found) == 0 ? (unsigned) found.gl_pathc : 0;
        for (unsigned i = 0; i < n && take_away; i++)
                (void) unlink(found.gl_pathv[i]);
        globfree(&found);
        return n;
}

/* ---- record ---- */

TEST(workingset, records_until_a_signal) {
        struct scene scene;

        begin(&scene);
        record(&scene);
        assert_file_has_what_was_wanted(&scene);
        cr_assert_eq(count_files(&scene, false), 1);
        cr_assert(status_is(&scene, "recording", false));
        /* The broker keeps nothing. */
        CTL_ENDS(1, scene.bus.option, "workingset", "stop");
        COMPLAINS("nothing is being recorded");
        end(&scene);
}

TEST(workingset, records_until_it_is_stopped) {
        struct scene scene;
        pid_t pid;

        begin(&scene);
        pid = start_recording(&scene);
        want_pages(&scene);
        CTL_ENDS(0, scene.bus.option, "workingset", "stop");
        SAYS("test: 4 pages wanted (16.0 KiB), in 4 entries\n");
        cr_assert_eq(test_child_wait(pid), 0);
        assert_file_has_what_was_wanted(&scene);
        end(&scene);
}

TEST(workingset, records_for_a_time) {
        struct scene scene;

        begin(&scene);
        want_pages(&scene);
        cr_assert(EVENTUALLY(({
                json_object *status;
                uint64_t n;

                CTL_ENDS(0, scene.bus.option, "status", "--json");
                status = ctl_json();
                n = ctl_number(status, "pages_present");
                (void) json_object_put(status);
                n == ELEMENTS(wanted);
        })));
        CTL_ENDS(0, scene.bus.option, "workingset", "record", scene.file, "--for=0.01");
        SAYS("test: 0 pages wanted (0 bytes), in 0 entries: ");
        COMPLAINS("4 pages present already");
        CTL_ENDS(0, "workingset", "show", scene.file);
        SAYS("wanted       0 pages");
        SAYS("not seen     4 pages present at the start\n");
        end(&scene);
}

TEST(workingset, says_that_the_fill_is_on) {
        struct scene scene;

        begin(&scene);
        CTL_ENDS(0, scene.bus.option, "fill", "rate", "1");
        CTL_ENDS(0, scene.bus.option, "fill", "on");
        cr_assert(EVENTUALLY(status_is(&scene, "fill", true)));
        CTL_ENDS(0, scene.bus.option, "workingset", "record", scene.file, "--for=0");
        COMPLAINS("the background fill is on");
        CTL_ENDS(0, "workingset", "show", scene.file);
        SAYS("not seen     what the background fill brought before it was wanted\n");
        end(&scene);
}

TEST(workingset, what_a_killed_recorder_leaves_is_fetched_by_stop) {
        struct scene scene;
        int status;
        pid_t pid;

        begin(&scene);
        pid = start_recording(&scene);
        want_pages(&scene);
        cr_assert(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
        cr_assert(status_is(&scene, "recording", true));
        CTL_ENDS(1, scene.bus.option, "workingset", "record", scene.file);
        COMPLAINS("a recording is under way");
        CTL_ENDS(0, scene.bus.option, "workingset", "stop");
        CTL_ENDS(0, scene.bus.option, "workingset", "stop", scene.file);
        assert_file_has_what_was_wanted(&scene);
        cr_assert_eq(count_files(&scene, true), 2, "what it had begun to write is left too");
        end(&scene);
}

TEST(workingset, a_file_that_cannot_be_written_is_found_out_before) {
        struct scene scene;

        begin(&scene);
        CTL_ENDS(1, scene.bus.option, "workingset", "record", "/nowhere/set.pws");
        COMPLAINS("/nowhere/set.pws: No such file or directory");
        CTL_ENDS(1, scene.bus.option, "workingset", "record", scene.bus.dir);
        COMPLAINS("is no file");
        cr_assert(status_is(&scene, "recording", false));
        end(&scene);
}

TEST(workingset, a_broker_that_ends_leaves_the_old_file) {
        struct scene scene;
        pid_t pid;
        int fd;

        begin(&scene);
        fd = open(scene.file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        cr_assert(fd >= 0 && write(fd, "old", 3) == 3 && close(fd) == 0);
        pid = start_recording(&scene);
        end_broker(&scene);
        cr_assert_eq(test_child_wait(pid), 1);
        cr_assert_eq(count_files(&scene, false), 1);
        CTL_ENDS(1, "workingset", "show", scene.file);
        COMPLAINS("is not a working set");
        begin_broker(&scene);
        end(&scene);
}

/* The next broker has the memory, and not the recording: the mark finds none, and so does whoever only looks. */
TEST(workingset, a_broker_that_is_restarted_is_told_of) {
        _cleanup_close_ int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        struct scene scene;
        pid_t pid;

        test_bus_start(&scene.bus);
        test_image_make(&scene.image, &(struct test_image_spec) { .n_pages = N_PAGES, .seed = 18 });
        (void) snprintf(scene.file, sizeof scene.file, "%s/set.pws", scene.bus.dir);
        test_broker_start(&scene.broker, &(struct test_broker_options) {
                                                 .supervised = true,
                                                 .args = (const char *const[]) { TEST_MEMORY("ram0", &scene.image),
                                                                                 scene.bus.option, "--fill=off", NULL },
                                         });
        CTL_ENDS(0, scene.bus.option, "wait");
        pid = start_recording(&scene);
        test_broker_kill_served(&scene.broker);
        test_broker_wait_next(&scene.broker);
        cr_assert_eq(test_child_wait(pid), 1);
        cr_assert_eq(count_files(&scene, false), 0);
        cr_assert(test_broker_will_log(&scene.broker, "was recording, and what it had recorded went with it"));
        test_broker_stop(&scene.broker);
        test_image_unlink(&scene.image);
        test_bus_stop(&scene.bus);
}

/* ---- replay ---- */

static void assert_is_here(struct scene *scene) {
        for (size_t i = 0; i < ELEMENTS(wanted); i++) {
                cr_assert(pb_is_present(scene->client, wanted[i] * TEST_PAGE, TEST_PAGE));
                test_ensure_and_check(scene->client, &scene->image, wanted[i] * TEST_PAGE, TEST_PAGE);
        }
}

TEST(workingset, replay_brings_what_was_wanted) {
        struct scene scene;
        json_object *begun;

        begin(&scene);
        record(&scene);
        end_broker(&scene);
        begin_broker(&scene);
        CTL_ENDS(0, scene.bus.option, "workingset", "replay", scene.file, "--wait");
        cr_assert_str_eq(ctl_out, "test: 4 pages in 4 runs replayed\n");
        assert_is_here(&scene);
        CTL_ENDS(0, scene.bus.option, "workingset", "replay", scene.file, "--json");
        begun = ctl_json();
        cr_assert_eq(ctl_number(begun, "pages"), 4);
        cr_assert(ctl_is(begun, "replaying"));
        (void) json_object_put(begun);
        end(&scene);
}

TEST(workingset, of_another_source_needs_force) {
        struct test_image other;
        struct scene scene;

        begin(&scene);
        record(&scene);
        end_broker(&scene);
        other = scene.image;
        test_image_make(&scene.image, &(struct test_image_spec) { .n_pages = N_PAGES, .seed = 19 });
        begin_broker(&scene);
        CTL_ENDS(1, scene.bus.option, "workingset", "replay", scene.file, "--wait");
        COMPLAINS(other.path);
        COMPLAINS(scene.image.path);
        COMPLAINS("--force");
        cr_assert_not(pb_is_present(scene.client, wanted[0] * TEST_PAGE, TEST_PAGE));
        CTL_ENDS(0, scene.bus.option, "workingset", "replay", scene.file, "--wait", "--force");
        COMPLAINS("notice: memory ram0 was taken from");
        assert_is_here(&scene);
        test_image_unlink(&other);
        end(&scene);
}

/* ---- show ---- */

TEST(workingset, shows_who_wanted_what_from_where) {
        struct scene scene;

        begin(&scene);
        record(&scene);
        CTL_ENDS(0, "workingset", "show", scene.file);
        SAYS("vm           test\n");
        SAYS("wanted       4 pages of 4 KiB (16.0 KiB), in 4 entries\n");
        SAYS("ram0    4.0 MiB      4  0.4 %  file:");
        SAYS(scene.image.path);
        SAYS("  device      4  ");
        SAYS("ram0, a letter is 16.0 KiB: ");
        /* Pages 3, 64, 500, 900: letters 0, 16, 125, 225. */
        SAYS("\n0x0             *...............*...............................................\n");
        SAYS("\n0x100000        .............................................................*..\n");
        SAYS("\n0x300000        .................................*..............................\n");
        end(&scene);
}

static void write_file(const char *path, const void *data, size_t size) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        cr_assert(fd >= 0 && write(fd, data, size) == (ssize_t) size);
}

TEST(workingset, files_that_are_none_are_named_with_a_reason) {
        struct {
                struct pb_working_set_header header;
                struct pb_working_set_memory memory;
                struct pb_working_set_client client;
                struct pb_working_set_entry entry;
        } file = {
                .header = { .magic = PB_WORKING_SET_MAGIC,
                            .version = 1,
                            .n_memories = 1,
                            .n_clients = 1,
                            .n_entries = 1,
                            .size = sizeof file,
                            .vm = "\033[2Jvm" },
                .memory = { .name = "ram\n", .size = 4096, .source = "file:\a" },
                .client = { .name = "\x9b"
                                    "31m" },
                .entry = { .n_pages = 1 },
        };
        char path[128];

        (void) snprintf(path, sizeof path, "%s/set-%d.pws", getenv("TMPDIR") ?: "/tmp", (int) getpid());
        CTL_ENDS(1, "workingset", "show", path);
        COMPLAINS("No such file or directory");
        CTL_ENDS(1, "workingset", "show", "/");
        COMPLAINS("/: Is a directory");
        CTL_ENDS(1, "workingset", "show", "/dev/zero");
        COMPLAINS("/dev/zero is not a working set");
        write_file(path, "", 0);
        CTL_ENDS(1, "workingset", "show", path);
        COMPLAINS("is not a working set");
        write_file(path, &file, sizeof file - 1);
        CTL_ENDS(1, "workingset", "show", path);
        COMPLAINS("is cut short");
        file.entry.n_pages = 2;
        write_file(path, &file, sizeof file);
        CTL_ENDS(1, "workingset", "show", path);
        COMPLAINS("names pages outside their memory");
        file.entry.n_pages = 1;
        file.entry.wanted_us = UINT64_MAX;
        write_file(path, &file, sizeof file);
        CTL_ENDS(0, "workingset", "show", path);
        /* What a terminal would take for a command is not passed on. */
        cr_assert(!strpbrk(ctl_out, "\033\a\x9b"), "%s", ctl_out);
        SAYS("vm           ?[2Jvm\n");
        CTL_ENDS(0, "workingset", "show", path, "--json");
        cr_assert(!strpbrk(ctl_out, "\033\a\x9b"), "%s", ctl_out);
        cr_assert(unlink(path) == 0);
}

TEST(workingset, a_wrong_command_line_is_told_what_is_wrong) {
        CTL_ENDS(2, "workingset");
        CTL_ENDS(2, "workingset", "play", "x");
        COMPLAINS("show, record, stop or replay?");
        CTL_ENDS(2, "workingset", "record");
        COMPLAINS("which file?");
        CTL_ENDS(2, "workingset", "show", "x", "--force");
        COMPLAINS("--force does not go with workingset show");
        CTL_ENDS(2, "workingset", "record", "x", "--for=-1");
        COMPLAINS("--for=-1");
        CTL_ENDS(2, "status", "--wait");
        COMPLAINS("--wait does not go with status");
}
