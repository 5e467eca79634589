/* SPDX-License-Identifier: MIT */
/* Memory that is plugged in while the guest runs, and taken out again: first with what is in a file, then empty. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/pagebroker.h"
#include "machine.h"

struct plug {
        pb_client *client;
        struct machine *machine;
        char *name;
        const uint64_t *image; /* what the guest has to find */
        size_t size;
        unsigned round;
        unsigned memory, region; /* the broker's index of it, and the client's */
};

/* `what` is NAME:FILE. All of these complain and return a negative errno. */
int plug_open(struct plug *plug, const char *what, pb_client *client, struct machine *machine);
void plug_done(struct plug *plug);

/* `*ret_pages`: now at GUEST_PLUG; 0: it was there twice. */
int plug_in(struct plug *plug, uint32_t *ret_pages);

/* The guest has summed it up. Was it the right thing? Then it goes. */
int plug_out(struct plug *plug, uint64_t sum);
