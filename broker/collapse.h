/* SPDX-License-Identifier: MIT */
/*
 * Huge pages behind a memory of 4 KiB pages, once all of it is present (--collapse): before that a huge page would be behind
 * 512 pages as soon as one was installed. The kernel copies, with whoever touches the block waiting for it; content and
 * addresses stay. On a thread of its own.
 */
#pragma once

struct broker;

/* On the control thread, when everything is present. */
void collapse_start(struct broker *broker);
/* Ends it early and waits for it. */
void collapse_stop(struct broker *broker);
