/* SPDX-License-Identifier: MIT */
/* Nobody shall wait for a page because a page of ours has been swapped out. Guest memory is never locked: it is the
 * kernel's to swap out, like that of any guest. */
#pragma once

struct broker;

/* While privileges are there. Best effort. */
void lock_raise_limit(void);

/* Once memories and pager are made, before anybody uses them and before the filter. Best effort; says what it could not. */
void lock_own_memory(struct broker *broker);
