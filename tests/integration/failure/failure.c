/* SPDX-License-Identifier: MIT */
#include "tests/integration/failure/failure.h"

#include <errno.h>
#include <string.h>

#include "tests/hostile/raw.h"

void failure_start_source(struct failure *ret) {
        require_fuse();
        *ret = (struct failure) { .images = { &ret->image } };
        test_image_make(&ret->image, &(struct test_image_spec) { .seed = 91, .n_pages = FAILURE_PAGES });
        test_gate_start(&ret->gate, &ret->image);
}

void failure_start_supervised(struct failure *ret, const char *more, const char *option) {
        failure_start_source(ret);
        test_broker_start(&ret->broker,
                          &(struct test_broker_options) {
                                  .supervised = true,
                                  .args = (const char *const[]) { test_gate_memory("ram0", &ret->gate, more), "--fill=off",
                                                                  "--source-retries=0", option, NULL },
                          });
        ret->client = test_connect(&ret->broker, PB_ROLE_VMM);
}

void failure_start_broker(struct failure *f, const char *more, const char *option, const char *option2) {
        TEST_BROKER_START(&f->broker, test_gate_memory("ram0", &f->gate, more), "--fill=off", "--source-retries=0",
                          option, option2);
        f->client = test_connect(&f->broker, PB_ROLE_VMM);
}

void failure_start(struct failure *ret, const char *more, const char *option, const char *option2) {
        failure_start_source(ret);
        failure_start_broker(ret, more, option, option2);
}

void failure_stop(struct failure *f) {
        f->client = test_disconnect(f->client);
        test_broker_stop(&f->broker);
        test_gate_stop(&f->gate);
        test_image_unlink(&f->image);
}

void failure_break(struct failure *f, uint64_t page) {
        test_gate_fail(&f->gate, page * TEST_PAGE, TEST_PAGE, EIO, TEST_GATE_ALWAYS);
}

int failure_heal_as(struct failure *f, uint32_t role, uint32_t memory, uint64_t first, uint64_t n, uint64_t *ret_healed) {
        struct pb_message_heal heal = {
                .header = { .type = PB_MSG_HEAL, .size = sizeof heal, .serial = 1 },
                .memory = memory,
                .first = first,
                .n_pages = n,
        };
        struct raw raw;
        int r;

        cr_assert_eq(raw_open(&raw, f->broker.address, role), 0, "%s", raw.text);
        r = raw_call(&raw, &heal, sizeof heal, -1, ret_healed);
        raw_close(&raw);
        return r;
}

uint64_t failure_heal(struct failure *f, uint64_t first, uint64_t n) {
        uint64_t healed = UINT64_MAX;
        int r = failure_heal_as(f, PB_AS_VMM, 0, first, n, &healed);

        cr_assert_eq(r, 0, "HEAL: %s", strerror(-r));
        return healed;
}

bool failure_page_is_right(struct failure *f, uint64_t page) {
        return ensure_is_right(f->client, f->images, page * TEST_PAGE, TEST_PAGE);
}
