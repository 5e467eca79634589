/* SPDX-License-Identifier: MIT */
/* What a service says to its supervisor: sd_notify(3), from the other side. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#define NOTIFY_FDS_MAX 64

struct notify_message {
        pid_t sender;
        bool ready, stopping, watchdog;
        bool store, forget, barrier;
        char name[256]; /* FDNAME */
        char status[256];
        int fds[NOTIFY_FDS_MAX]; /* the receiver's to take */
        unsigned n_fds;
};

/* A socket with an address of the kernel's choice, for $NOTIFY_SOCKET. */
int notify_listen(char *ret_address, size_t size);

/* -EAGAIN: there is none. -EBADMSG: nonsense was taken away. */
int notify_receive(int socket, struct notify_message *ret);
void notify_message_done(struct notify_message *message);
