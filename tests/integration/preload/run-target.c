/* SPDX-License-Identifier: MIT */
#include "tests/integration/preload/run-target.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/cleanup.h"
#include "tests/lib/connect.h"

#define ARGS_MAX 64

const char pagebroker_run[] = TEST_BUILD_ROOT "/client/run/pagebroker-run";
const char preload_option[] = "--preload=" TEST_BUILD_ROOT "/client/preload/libpagebroker-preload.so";
static const char target_path[] = TEST_BUILD_ROOT "/tests/integration/preload/preload-target";

char target_said[16384];

struct command {
        const char *const *argv;
        int error;
};

static int exec_command(void *arg) {
        const struct command *command = arg;

        if (dup2(command->error, STDERR_FILENO) < 0)
                return 120;
        (void) execv(command->argv[0], (char *const *) command->argv);
        return 121;
}

int target_run_command(const char *const *argv, uid_t uid) {
        _cleanup_close_ int error = memfd_create("standard-error", MFD_CLOEXEC);
        struct command command = { .argv = argv, .error = error };
        ssize_t n;
        int status;

        cr_assert(error >= 0);
        status = test_run_as(uid == 0 ? (uid_t) -1 : uid, exec_command, &command);
        n = pread(error, target_said, sizeof target_said - 1, 0);
        target_said[n > 0 ? n : 0] = 0;
        return status;
}

static void append(const char **argv, unsigned *n, const char *const *words) {
        for (; words && *words; words++) {
                cr_assert(*n < ARGS_MAX - 1);
                argv[(*n)++] = *words;
        }
}

int target_run(const struct test_broker *broker, const struct test_image *image, const struct target_run *run) {
        const char *argv[ARGS_MAX] = {};
        char socket[128];
        unsigned n = 0;

        (void) snprintf(socket, sizeof socket, "--socket=%s", broker->address);
        append(argv, &n, (const char *const[]) { pagebroker_run, preload_option, socket, "--reconnect=0", "--", NULL });
        append(argv, &n, run->wrapper);
        append(argv, &n, (const char *const[]) { target_path, "{memory0}", "{memory0.size}", image->path, NULL });
        append(argv, &n, run->actions);
        return target_run_command(argv, run->uid);
}

struct pb_stats target_stats(const struct test_broker *broker) {
        struct pb_stats stats = { .size = sizeof stats };
        pb_client *client = test_connect(broker, PB_ROLE_OBSERVER);

        cr_assert(pb_get_stats(client, &stats) >= 0);
        (void) test_disconnect(client);
        return stats;
}
