/* SPDX-License-Identifier: MIT */
/* A working set in a file of ours: pagebroker-workingset(5). What is in it may be anybody's, and is looked at first. */
#pragma once

#include <stdint.h>

#include "client/ctl/ctl.h"
#include "common/cleanup.h"
#include "common/macro.h"
#include "protocol/working-set.h"

struct set_file {
        void *data;
        uint64_t size;
        struct working_set_view view;
};

void set_file_done(struct set_file *file);
#define _cleanup_set_file_ _cleanup_(set_file_done)

/* "-": standard input. STATUS_OK or complained: what is wrong with it. */
int set_file_read(const char *path, struct set_file *ret);

/* One that appears under its name when it is whole: until then what was there stays. "-": standard output. */
struct set_output {
        const char *path;
        char *temporary; /* NULL: standard output */
        int fd;
};

/* STATUS_OK or complained. */
int set_output_open(struct set_output *ret, const char *path);
/* Takes it away, if it has not been kept. */
void set_output_done(struct set_output *output);
int set_output_write(struct set_output *output, const void *data, uint64_t size);
int set_output_keep(struct set_output *output);
#define _cleanup_set_output_ _cleanup_(set_output_done)

/* A line that is written over by the next, if standard error is a terminal. */
void set_progress(const char *format, ...) PRINTF_LIKE(1, 2);
void set_progress_end(void);

int set_show(const struct ctl *ctl, const char *path);
int set_record(const struct ctl *ctl, const char *path);
int set_stop(const struct ctl *ctl, const char *path_or_null);
int set_replay(const struct ctl *ctl, const char *path);
