/* SPDX-License-Identifier: MIT */
#include "broker/account.h"

#include "tests/lib/test.h"

#define KIND ACCOUNT_CLOSES
#define LIMIT 64u

/* Takes all that it gets. */
static unsigned take_all(uid_t user) {
        unsigned n = 0;

        for (; account_has_room(user, KIND, LIMIT); n++)
                account_add(user, KIND);
        return n;
}

TEST(account, one_user_gets_half_and_the_next_ones_half_of_what_is_left) {
        cr_assert_eq(take_all(1000), LIMIT / 2);
        cr_assert_eq(take_all(1001), LIMIT / 4);
        cr_assert_eq(take_all(1002), LIMIT / 8);
        cr_assert(!account_has_room(1000, KIND, LIMIT));
        cr_assert_eq(account_total(KIND), LIMIT / 2 + LIMIT / 4 + LIMIT / 8);
        cr_assert_eq(account_used(1001, KIND), LIMIT / 4);
}

TEST(account, what_is_given_back_can_be_taken_again) {
        unsigned n = take_all(1000);

        for (unsigned i = 0; i < n; i++)
                account_remove(1000, KIND);
        cr_assert_eq(account_used(1000, KIND) + account_total(KIND), 0);
        cr_assert_eq(take_all(1000), n);
}

TEST(account, kinds_do_not_mix) {
        (void) take_all(1000);
        cr_assert(account_has_room(1000, ACCOUNT_PEERS_VMM, LIMIT));
        cr_assert_eq(account_used(1000, ACCOUNT_PEERS_VMM), 0);
}

TEST(account, what_is_over_a_lowered_limit_leaves_no_room) {
        (void) take_all(1000);
        cr_assert(!account_has_room(1001, KIND, LIMIT / 4));
}

TEST(account, more_users_than_can_be_named_share_with_the_strangers) {
        for (uid_t user = 1; user <= 300; user++)
                account_add(user, KIND);
        cr_assert_eq(account_total(KIND), 300);
        cr_assert_eq(account_used(ACCOUNT_STRANGERS, KIND), 300 - 256);
        /* A place is free now; those who share must find what they gave there. */
        account_remove(1, KIND);
        account_add(300, KIND);
        for (uid_t user = 2; user <= 300; user++)
                account_remove(user, KIND);
        account_remove(300, KIND);
        cr_assert_eq(account_total(KIND), 0);
}
