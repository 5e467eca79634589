/* SPDX-License-Identifier: MIT */
/* What the threads that serve tell the control thread: they leave it under a lock, and an eventfd says that there is some. */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "broker/pager.h"

struct broker;

/* For pager_new(). */
struct pager_events news_of_pager(struct broker *broker);

/* On the control thread: does what follows from them. `fd`: broker->eventfd. */
int news_take(sd_event_source *source, int fd, uint32_t events, void *broker);
