/* SPDX-License-Identifier: MIT */
#pragma once

#include <stddef.h>

#define RESERVE_HUGE (2u << 20)

/*
 * Address space for a mapping of `size` bytes that starts at offset 0 of its file, without access, to be mapped over with
 * MAP_FIXED. From 2 MiB on it is aligned so that a huge page of the file can be one entry of the page table. NULL with errno.
 */
void *reserve_for_huge(size_t size);
