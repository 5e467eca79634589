/* SPDX-License-Identifier: MIT */
/* No huge page left where one is needed: that request fails, nothing else does. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/integration/basic/support.h"

static struct test_image image;
static const struct test_image *const images[] = { &image };

static uint64_t pool_read(const char *name) {
        unsigned long long value = 0;
        char path[96];
        FILE *f;

        (void) snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-2048kB/%s", name);
        f = fopen(path, "re");
        cr_assert(f && fscanf(f, "%llu", &value) == 1);
        (void) fclose(f);
        return value;
}

static uint64_t pool_free(void) {
        return pool_read("free_hugepages") - pool_read("resv_hugepages");
}

static void require_no_overcommit(void) {
        if (pool_read("nr_overcommit_hugepages") > 0)
                cr_skip_test("vm.nr_overcommit_hugepages is set: the pool cannot run dry");
}

/* Takes every huge page that nobody has reserved. */
static void *pool_drain(size_t *ret_size) {
        void *addr;

        *ret_size = pool_free() * HUGE_2M;
        if (*ret_size == 0)
                return NULL;
        addr = mmap(NULL, *ret_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
        cr_assert(addr != MAP_FAILED);
        cr_assert_eq(pool_free(), 0);
        return addr;
}

/*
 * Huge pages are reserved when the memory is made, so the pool cannot run dry under an honest VM; but who may write the
 * memfd can punch a hole, and the reservation goes with it.
 */
TEST(huge, page_that_cannot_be_backed_is_enomem_until_there_is_one_again) {
        struct test_broker broker;
        struct pb_region region;
        pb_client *client;
        size_t drained_size;
        void *drained;

        require_hugepages(4, HUGE_2M);
        require_no_overcommit();
        test_image_make(&image, &(struct test_image_spec) { .seed = 20, .n_pages = 4 * 512, .data_ppm = 800000 });
        TEST_BROKER_START(&broker, test_memory("ram0", &image, ",huge=2M"), "--fill=off");
        client = test_connect(&broker, PB_ROLE_DEVICE);
        region = get_region(client, 0);
        test_ensure(client, HUGE_2M, TEST_PAGE, PB_READ); /* backs huge page 1 */
        cr_assert(fallocate(region.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) HUGE_2M, (off_t) HUGE_2M) ==
                  0);
        drained = pool_drain(&drained_size);

        cr_assert_eq(pb_ensure(client, HUGE_2M + TEST_PAGE, 10 * TEST_PAGE, PB_READ), -ENOMEM);
        cr_assert(strstr(pb_explain(client), "huge page") != NULL, "%s", pb_explain(client));
        cr_assert(ensure_is_right(client, images, 0, HUGE_2M));
        cr_assert(ensure_is_right(client, images, 2 * HUGE_2M, 2 * HUGE_2M));
        cr_assert_eq(pb_ensure(client, 0, 4 * HUGE_2M, PB_READ), -ENOMEM);
        cr_assert_eq(get_stats(client).pages_poisoned, 0);
        cr_assert(EVENTUALLY(get_stats(client).pages_in_flight == 0));

        if (drained)
                cr_assert(munmap(drained, drained_size) == 0);
        cr_assert(ensure_is_right(client, images, HUGE_2M + TEST_PAGE, HUGE_2M - TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_image_unlink(&image);
}

TEST(huge, memory_without_enough_huge_pages_is_refused_at_start) {
        char log[4096];
        size_t drained_size;
        void *drained;
        int status;

        require_hugepages(2, HUGE_2M);
        require_no_overcommit();
        drained = pool_drain(&drained_size);
        status = test_broker_refuses((const char *const[]) { "--memory=ram0,size=64M,huge=2M", NULL }, log, sizeof log);
        if (drained)
                cr_assert(munmap(drained, drained_size) == 0);
        cr_assert_eq(status, 1);
        cr_assert(strstr(log, "nr_hugepages"), "%s", log);
}
