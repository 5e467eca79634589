/* SPDX-License-Identifier: MIT */
#include "tests/unit/client/resuming.h"

struct fake *fake;
pb_client *client;

void start_with(const struct fake_options *fake_options, const struct pb_options *options) {
        fake = fake_new(fake_options);
        fake_listen(fake);
        fake_start(fake);
        client = connect_with(fake, options);
}

void start(uint32_t role) {
        start_with(&(struct fake_options) { .n_pages = { 4096 } },
                   OPTIONS(.role = role, .slice_us = 50000, .flags = PB_OPT_COUNT_LOST_WAKES));
}

void stop(void) {
        cr_assert_eq(get_counters(client).lost_wakes, 0);
        client = pb_disconnect(client);
        fake_free(fake);
}

void restart(void) {
        fake_restart(fake);
}

void assert_ensured(uint64_t page) {
        cr_assert_eq(pb_ensure(client, page * PAGE, PAGE, PB_READ), 0);
        cr_assert(fake_page_is_right(pb_translate(client, page * PAGE, PAGE), 0, page));
}
