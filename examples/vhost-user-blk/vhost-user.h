/* SPDX-License-Identifier: MIT */
/* The front-end (the VMM): one connection at a time on a listening socket. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <systemd/sd-event.h>

#include "vhost-user-protocol.h"

struct device;

struct front {
        struct device *device;
        char *path; /* of the listening socket, once it is ours */
        struct stat path_stat;
        int listener;
        sd_event_source *listener_source;
        int socket; /* -1: nobody is connected */
        sd_event_source *socket_source;

        /* The message that is being received. */
        struct vu_header header;
        union vu_payload payload;
        size_t received; /* bytes, header included */
        int fds[VU_FDS_MAX];
        unsigned n_fds;

        uint64_t protocol_features;
        int draining; /* the queue that GET_VRING_BASE waits for; -1: none */
        bool closing; /* the connection is over, but its requests are not */
};

int front_open(struct front *front, struct device *device, const char *path);
void front_close(struct front *front);

/* Ends the connection; the next one is accepted when nothing of this one is under way any more. */
void front_disconnect(struct front *front, const char *reason);

/* After every turn of the event loop: finishes what had to wait for requests under way. */
void front_turn(struct front *front);

/* Between the socket and the messages' meaning. */
int front_handle(struct front *front);
int front_reply(struct front *front, size_t size);
