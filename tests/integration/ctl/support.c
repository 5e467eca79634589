/* SPDX-License-Identifier: MIT */
#include "tests/integration/ctl/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/cleanup.h"

#define WORDS_MAX 32

const char ctl_program[] = TEST_BUILD_ROOT "/client/ctl/pagebrokerctl";

char ctl_out[262144], ctl_err[16384];

struct command {
        const char *argv[WORDS_MAX];
        int out, err;
};

static int exec_command(void *arg) {
        const struct command *command = arg;

        if (dup2(command->out, STDOUT_FILENO) < 0 || (command->err >= 0 && dup2(command->err, STDERR_FILENO) < 0))
                return 120;
        (void) unsetenv("PAGEBROKER_SOCKET");
        (void) execv(command->argv[0], (char *const *) command->argv);
        return 121;
}

static void set_words(struct command *command, const char *const *words) {
        unsigned n = 0;

        command->argv[n++] = ctl_program;
        for (; *words; words++) {
                cr_assert(n < WORDS_MAX - 1);
                command->argv[n++] = *words;
        }
        command->argv[n] = NULL;
}

static void read_all(int fd, char *ret, size_t size) {
        ssize_t n = pread(fd, ret, size - 1, 0);

        ret[n > 0 ? n : 0] = 0;
}

int ctl_run(uid_t uid, const char *const *words) {
        _cleanup_close_ int out = memfd_create("out", MFD_CLOEXEC), err = memfd_create("err", MFD_CLOEXEC);
        struct command command = { .out = out, .err = err };
        int status;

        cr_assert(out >= 0 && err >= 0);
        set_words(&command, words);
        status = test_run_as(uid == 0 ? (uid_t) -1 : uid, exec_command, &command);
        read_all(out, ctl_out, sizeof ctl_out);
        read_all(err, ctl_err, sizeof ctl_err);
        return status;
}

pid_t ctl_start(int out, const char *const *words) {
        struct command command = { .out = out, .err = -1 };

        set_words(&command, words);
        return test_child_start((uid_t) -1, exec_command, &command);
}

/* ---- JSON ---- */

json_object *ctl_json(void) {
        json_object *object = json_tokener_parse(ctl_out);
        const char *end = strchr(ctl_out, '\n');

        cr_assert(object && json_object_is_type(object, json_type_object), "no JSON object: %.1000s", ctl_out);
        cr_assert(end && !end[1], "not one line: %.1000s", ctl_out);
        return object;
}

static json_object *find(const json_object *object, const char *path) {
        char words[256], *rest = words;

        (void) snprintf(words, sizeof words, "%s", path);
        for (char *word; (word = strsep(&rest, "/"));) {
                json_object *next = NULL;

                if (json_object_is_type(object, json_type_array))
                        next = json_object_array_get_idx(object, strtoul(word, NULL, 10));
                else
                        (void) json_object_object_get_ex(object, word, &next);
                cr_assert(next, "no %s (of %s) in %.4000s", word, path, ctl_out);
                object = next;
        }
        return (json_object *) object;
}

uint64_t ctl_number(const json_object *object, const char *path) {
        json_object *value = find(object, path);

        cr_assert(json_object_is_type(value, json_type_int), "%s is no number: %s", path, ctl_out);
        return json_object_get_uint64(value);
}

const char *ctl_text(const json_object *object, const char *path) {
        json_object *value = find(object, path);

        cr_assert(json_object_is_type(value, json_type_string), "%s is no text: %s", path, ctl_out);
        return json_object_get_string(value);
}

bool ctl_is(const json_object *object, const char *path) {
        json_object *value = find(object, path);

        cr_assert(json_object_is_type(value, json_type_boolean), "%s is no truth value: %s", path, ctl_out);
        return json_object_get_boolean(value);
}
