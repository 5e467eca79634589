/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Can the preload library reach into this program? A program that the dynamic linker does not start, or starts without
 * LD_PRELOAD, would see zeros instead of guest memory and never know.
 *
 * Returns NULL if it can, else why not, in words that go after the program's name. `path` as execve() takes it.
 */
const char *program_why_not(const char *path);

/* Searches $PATH as execvp() does. `ret` is malloc'ed. -ENOENT. */
int program_find(const char *name, char **ret);
