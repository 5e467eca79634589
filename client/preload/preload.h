/* SPDX-License-Identifier: MIT */
/*
 * What the wrapped functions share.
 *
 * pagebroker-run says in the environment under which numbers the program shall find guest memory; this library gets the
 * memfds from the broker and puts them there before main() runs. So a program that has lost the library on its way (its
 * environment was cleared, it has file capabilities) has no guest memory either, and fails instead of reading zeros.
 *
 * Once the process has mapped guest memory, what it starts are helpers, not the program: the variable is emptied, and
 * in a process without it every wrapper ends in the next function at once.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/preload/mapping.h"
#include "common/macro.h"

/* "100,101,...": a descriptor's number for each memory, in the order of the broker's indices. */
#define PRELOAD_ENV_MEMORY "PAGEBROKER_MEMORY"
#define PRELOAD_ENV_SOCKET "PAGEBROKER_SOCKET"
#define PRELOAD_ENV_ROLE "PAGEBROKER_ROLE"
/* Seconds that a mapping waits for the next broker, when this one has ended. */
#define PRELOAD_ENV_RECONNECT "PAGEBROKER_RECONNECT"
#define PRELOAD_RECONNECT_DEFAULT_S 30u
#define PRELOAD_RECONNECT_MAX_S 86400u

/* True if this process gets guest memory from pagebroker-run. One load once the constructor has run; the first call may
 * be the one that initializes, so not for wrappers that an allocator may call meanwhile. */
bool preload_is_active(void);

/* The index of the guest memory behind `fd`, recognised by device and inode; -ENOENT if it is something else. */
int preload_find_memory(int fd);

/* Is guest memory supposed to be at this number? Then whatever is there else must not be taken for it. */
bool preload_is_number_of_memory(int fd);

/* Says why there is no guest memory, if there is none. Returns 0 or the error. */
int preload_check(void);

/* One line on standard error. Keeps errno; allocates nothing. */
void preload_say(const char *format, ...) PRINTF_LIKE(1, 2);

/* Everything below between these two; fork() waits for it. */
void preload_lock(void);
void preload_unlock(void);

struct mapping_table *preload_mappings(void);

/* Backing page of `memory`, and how many of its bytes from `offset` on a mapping of `length` shows, whole backing
 * pages. -EINVAL if none. Attaches this process first where that is still to be done. */
int preload_extent(unsigned memory, uint64_t offset, uint64_t length, uint64_t *ret_length);

/* Puts a fresh mapping under userfaultfd. Says why not. */
int preload_register(unsigned memory, uintptr_t address, uint64_t length, uint64_t offset);

/* The range shows no guest memory any more: forgotten here and by the broker. After the fact and with the lock, so that
 * nobody registers something else there in between. Keeps errno. */
void preload_forget(uintptr_t address, uint64_t length);

/* Does [address, address + length) show guest memory somewhere? Takes the lock, where there is any at all. */
bool preload_is_guest(const void *address, size_t length);
