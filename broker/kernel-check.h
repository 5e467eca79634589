/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>

/*
 * What this kernel lacks, in one sentence each. Returns -ENOSYS if it lacks something that nothing works without.
 * `all` also says what is optional and there.
 */
int kernel_check(bool all);

/* --on-error=poison */
bool kernel_has_uffd_poison(void);
