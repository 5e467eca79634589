/* SPDX-License-Identifier: MIT */
#include "broker/closer.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "broker/account.h"
#include "common/log.h"

/* #syscalls:broker close */

/* Threads with small stacks, and the descriptors they hang on: what hostile clients can make us hold. The shares are of
 * the first number; what those leave behind who are refused over their share must be closed as well, up to the second. */
#define CLOSERS_SHARED 512u
#define CLOSERS_MAX 1024u

struct closing {
        int fd;
        uid_t account;
};

bool closer_has_room(uid_t account) {
        return account_has_room(account, ACCOUNT_CLOSES, CLOSERS_SHARED);
}

bool closer_is_full(void) {
        return account_total(ACCOUNT_CLOSES) >= CLOSERS_MAX;
}

static void *closer_thread(void *arg) {
        struct closing closing = *(struct closing *) arg;

        free(arg);
        (void) close(closing.fd);
        account_remove(closing.account, ACCOUNT_CLOSES);
        return NULL;
}

void closer_close(int fd, uid_t account) {
        struct closing *closing;
        pthread_attr_t attr;
        pthread_t thread;

        if (fd < 0)
                return;
        (void) pthread_attr_init(&attr);
        (void) pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        (void) pthread_attr_setstacksize(&attr, 64 << 10);
        account_add(account, ACCOUNT_CLOSES);
        closing = malloc(sizeof *closing);
        if (closing)
                *closing = (struct closing) { .fd = fd, .account = account };
        if (!closing || pthread_create(&thread, &attr, closer_thread, closing) != 0) {
                log_warning("a descriptor that a client sent stays open: no thread to close it");
                free(closing);
        }
        (void) pthread_attr_destroy(&attr);
}
