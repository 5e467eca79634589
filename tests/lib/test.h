/* SPDX-License-Identifier: MIT */
/*
 * What every test of ours starts from:
 *
 *      TEST(suite, behaviour) {
 *              struct test_image image;
 *              struct test_broker broker;
 *
 *              require_uffd();
 *              test_image_make(&image, &(struct test_image_spec) { .n_pages = 1024, .seed = 1, .data_ppm = 500000 });
 *              TEST_BROKER_START(&broker, TEST_MEMORY("ram0", &image));
 *              ...
 *              test_broker_stop(&broker);
 *      }
 *
 * TEST() is Criterion's Test() with the process's open descriptors counted before and after. Criterion runs every test
 * in a process of its own and ignores assertions in .fini, so the count is compared at the end of the test itself.
 * If the test fails, the logs of brokers that still run are shown.
 */
#pragma once

#include <criterion/criterion.h>

#include "tests/lib/broker-fixture.h"
#include "tests/lib/descriptors.h"
#include "tests/lib/image.h"
#include "tests/lib/process.h"
#include "tests/lib/require.h"

#define TEST(suite, behaviour, ...)                                               \
        static void suite##_##behaviour##_body(void);                             \
        Test(suite, behaviour, .fini = test_broker_show_logs, ##__VA_ARGS__) {    \
                test_descriptors_begin();                                         \
                suite##_##behaviour##_body();                                     \
                test_descriptors_end();                                           \
        }                                                                         \
        static void suite##_##behaviour##_body(void)
