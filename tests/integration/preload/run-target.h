/* SPDX-License-Identifier: MIT */
/* Runs tests/integration/preload/target.c under pagebroker-run against a broker under test. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/pagebroker.h"
#include "tests/lib/test.h"

struct target_run {
        uid_t uid;                  /* 0: ours */
        const char *const *wrapper; /* goes before the target; NULL-terminated, or NULL */
        const char *const *actions; /* NULL-terminated */
};

/* The exit status. What it said on standard error is in `target_said` afterwards. */
int target_run(const struct test_broker *broker, const struct test_image *image, const struct target_run *run);
extern char target_said[16384];

#define TARGET(broker, image, ...) \
        target_run((broker), (image), &(struct target_run) { .actions = (const char *const[]) { __VA_ARGS__, NULL } })

/* It must end with 0; shows what it said otherwise. */
#define TARGET_SUCCEEDS(broker, image, ...)                                                     \
        do {                                                                                    \
                int _status = TARGET(broker, image, __VA_ARGS__);                               \
                cr_assert_eq(_status, 0, "the target ended with %d: %s", _status, target_said); \
        } while (0)

/* Runs any command line with standard error caught as above. */
int target_run_command(const char *const *argv, uid_t uid);

struct pb_stats target_stats(const struct test_broker *broker);

extern const char pagebroker_run[];
extern const char preload_option[];
