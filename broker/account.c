/* SPDX-License-Identifier: MIT */
#include "broker/account.h"

#include <assert.h>
#include <pthread.h>
#include <stddef.h>

#include "common/macro.h"

/* Users that are named, and members of groups that are. More than that share with the strangers. */
#define USERS_MAX 256u

struct account {
        uid_t user;
        unsigned used[ACCOUNT_KINDS];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct account strangers = { .user = ACCOUNT_STRANGERS };
static struct account users[USERS_MAX];
static unsigned total[ACCOUNT_KINDS];

static bool is_free(const struct account *account) {
        for (unsigned kind = 0; kind < ACCOUNT_KINDS; kind++)
                if (account->used[kind])
                        return false;
        return true;
}

/* NULL: has nothing of its own. */
static struct account *find(uid_t user) {
        for (unsigned i = 0; i < USERS_MAX; i++)
                if (users[i].user == user && !is_free(&users[i]))
                        return &users[i];
        return user == ACCOUNT_STRANGERS ? &strangers : NULL;
}

static struct account *find_or_make(uid_t user) {
        struct account *account = find(user);

        for (unsigned i = 0; i < USERS_MAX && !account; i++)
                if (is_free(&users[i])) {
                        users[i].user = user;
                        account = &users[i];
                }
        return account ?: &strangers;
}

bool account_has_room(uid_t user, enum account_kind kind, unsigned limit) {
        const struct account *account;
        bool room;

        (void) pthread_mutex_lock(&lock);
        account = find(user);
        room = total[kind] < limit && (account ? account->used[kind] : 0) < limit - total[kind];
        (void) pthread_mutex_unlock(&lock);
        return room;
}

void account_add(uid_t user, enum account_kind kind) {
        (void) pthread_mutex_lock(&lock);
        find_or_make(user)->used[kind]++;
        total[kind]++;
        (void) pthread_mutex_unlock(&lock);
}

void account_remove(uid_t user, enum account_kind kind) {
        struct account *account;

        (void) pthread_mutex_lock(&lock);
        account = find(user);
        /* It was added to the strangers when there was no room for a user more. */
        if (!account || account->used[kind] == 0)
                account = &strangers;
        assert(account->used[kind] > 0 && total[kind] > 0);
        account->used[kind]--;
        total[kind]--;
        (void) pthread_mutex_unlock(&lock);
}

unsigned account_used(uid_t user, enum account_kind kind) {
        const struct account *account;
        unsigned used;

        (void) pthread_mutex_lock(&lock);
        account = find(user);
        used = account ? account->used[kind] : 0;
        (void) pthread_mutex_unlock(&lock);
        return used;
}

unsigned account_total(enum account_kind kind) {
        unsigned used;

        (void) pthread_mutex_lock(&lock);
        used = total[kind];
        (void) pthread_mutex_unlock(&lock);
        return used;
}
