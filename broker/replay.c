/* SPDX-License-Identifier: MIT */
#include "broker/replay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/memory.h"
#include "broker/recording.h"
#include "broker/source.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/macro.h"
#include "protocol/working-set.h"

/* #syscalls:broker pread64 */

/* What was wanted within so long, and so many of them, is put into order of address: the guest's work has no finer order
 * that a source could keep, and neighbours become one read. */
#define BATCH_US (50 * USEC_PER_MSEC)
#define BATCH_ENTRIES 512u
/* Pages between two runs that are cheaper read along than left out. */
#define GAP_PAGES 8u

struct notes {
        char *text;
};

/* Names in a file may be any bytes. An answer on the bus must be text: sd-bus would send none, and who asked would wait. */
static void make_text(char *line) {
        for (; *line; line++)
                if ((unsigned char) *line < ' ' || (unsigned char) *line > '~')
                        *line = '?';
}

static void note(struct notes *notes, const char *format, ...) PRINTF_LIKE(2, 3);
static void note(struct notes *notes, const char *format, ...) {
        char *line = NULL, *more = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&line, format, ap);
        va_end(ap);
        if (n < 0)
                return;
        make_text(line);
        if (!notes->text) {
                notes->text = line;
                return;
        }
        if (asprintf(&more, "%s; %s", notes->text, line) >= 0) {
                free(notes->text);
                notes->text = more;
        }
        free(line);
}

/* Is it the same file? By what the file system says, if it said so both times; then its path may have changed. */
static bool is_same_source(const struct pb_working_set_memory *from, const struct memory *memory) {
        const struct source *source = memory->source;
        struct pb_working_set_memory is;

        if (source->size != from->source_size || memory->source_offset != from->source_offset)
                return false;
        if (from->inode == 0 || !source_get_file(source, &is))
                return strcmp(source->name ?: "", from->source) == 0;
        return is.device == from->device && is.inode == from->inode && is.modified_ns == from->modified_ns;
}

static void compare_memory(const struct pb_working_set_memory *from, const struct memory *memory, struct notes *notes) {
        const char *name = memory->source->name ?: "";

        if (memory->size != from->size)
                note(notes, "memory %s had %" PRIu64 " bytes and has %" PRIu64 " here", from->name, from->size, memory->size);
        if (is_same_source(from, memory))
                return;
        if (strcmp(name, from->source) == 0)
                note(notes, "memory %s comes from %s, which was another file then, or has changed since", from->name, name);
        else
                note(notes, "memory %s was taken from %s, and comes from %s here", from->name, from->source, name);
}

/* Which of our memories each of the file's is; NULL: none. How many were found. */
static unsigned match(const struct working_set_view *view, const struct replay_target *target,
                      struct memory *ret[PB_MEMORIES_MAX], struct notes *notes, struct notes *differences) {
        unsigned found = 0;

        for (uint32_t i = 0; i < view->header->n_memories; i++) {
                const struct pb_working_set_memory *from = &view->memories[i];

                ret[i] = NULL;
                for (unsigned j = 0; j < target->n_memories; j++)
                        if (strcmp(target->memories[j]->name, from->name) == 0)
                                ret[i] = target->memories[j];
                if (!ret[i])
                        note(differences, "it has a memory %s, which this VM does not", from->name);
                else if (atomic_load(&ret[i]->hidden)) {
                        note(notes, "memory %s is not plugged in, and is left out", from->name);
                        ret[i] = NULL;
                } else
                        compare_memory(from, ret[i], differences);
                found += ret[i] != NULL;
        }
        if (strcmp(view->header->vm, target->vm) != 0)
                note(differences->text ? differences : notes, "it was recorded from the VM %s, and this is %s",
                     view->header->vm, target->vm);
        return found;
}

static int compare_runs(const void *a, const void *b) {
        const struct replay_run *left = a, *right = b;

        if (left->memory != right->memory)
                return left->memory->index < right->memory->index ? -1 : 1;
        return left->first < right->first ? -1 : left->first > right->first;
}

/* Sorts runs [begin, end) and joins neighbours. Returns the new end. */
static uint64_t join(struct replay_run *runs, uint64_t begin, uint64_t end) {
        uint64_t last = begin;

        if (end - begin < 2)
                return end;
        qsort(&runs[begin], end - begin, sizeof runs[0], compare_runs);
        for (uint64_t i = begin + 1; i < end; i++) {
                struct replay_run *to = &runs[last];
                uint64_t to_end = to->first + to->count, run_end = runs[i].first + runs[i].count;

                if (runs[i].memory == to->memory && runs[i].first <= to_end + GAP_PAGES)
                        to->count = max_u64(to_end, run_end) - to->first;
                else
                        runs[++last] = runs[i];
        }
        return last + 1;
}

static void plan(struct replay *replay, const struct working_set_view *view, struct memory *const match_of[]) {
        uint64_t batch = 0, batch_us = 0, n = 0;
        unsigned in_batch = 0;

        for (uint64_t i = 0; i < view->header->n_entries; i++) {
                const struct pb_working_set_entry *entry = &view->entries[i];
                struct memory *memory = match_of[entry->memory];

                if (!memory || entry->first_page >= memory->n_pages)
                        continue;
                if (in_batch == BATCH_ENTRIES || (in_batch > 0 && entry->wanted_us - batch_us > BATCH_US)) {
                        batch = n = join(replay->runs, batch, n);
                        in_batch = 0;
                }
                if (in_batch++ == 0)
                        batch_us = entry->wanted_us;
                replay->runs[n++] = (struct replay_run) {
                        .memory = memory,
                        .first = entry->first_page,
                        .count = min_u64(entry->n_pages, memory->n_pages - entry->first_page),
                };
        }
        replay->n_runs = join(replay->runs, batch, n);
        for (uint64_t i = 0; i < replay->n_runs; i++)
                replay->n_pages += replay->runs[i].count;
}

static int fail(char **ret_error, int error, const char *why) {
        *ret_error = strdup(why);
        return error;
}

int replay_new(struct replay **ret, const void *file, uint64_t size, const struct replay_target *target, char **ret_notice,
               char **ret_error) {
        struct notes notes = {}, differences = {};
        struct memory *match_of[PB_MEMORIES_MAX];
        struct working_set_view view;
        struct replay *replay;
        const char *wrong = working_set_check(file, size, &view);
        int r = 0;

        if (wrong)
                return fail(ret_error, -EINVAL, wrong);
        if (match(&view, target, match_of, &notes, &differences) == 0)
                r = fail(ret_error, -EINVAL, "has no memory of a name that this VM has plugged in");
        else if (differences.text && !target->force) {
                *ret_error = PTR_TAKE(differences.text);
                r = -EXDEV;
        }
        if (differences.text)
                note(&notes, "%s", differences.text);
        free(differences.text);
        replay = r == 0 ? calloc(1, sizeof *replay) : NULL;
        if (replay)
                replay->runs = calloc(max_u64(view.header->n_entries, 1), sizeof replay->runs[0]);
        if (r == 0 && (!replay || !replay->runs))
                r = fail(ret_error, -ENOMEM, "needs more memory than there is");
        if (r < 0) {
                free(notes.text);
                (void) replay_free(replay);
                return r;
        }
        plan(replay, &view, match_of);
        *ret_notice = notes.text;
        *ret = replay;
        return 0;
}

int replay_load(struct replay **ret, int fd, const struct replay_target *target, char **ret_notice, char **ret_error) {
        _cleanup_free_ void *file = NULL;
        struct stat st;

        if (fstat(fd, &st) < 0)
                return fail(ret_error, -errno, strerror(errno));
        if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t) st.st_size > PB_WORKING_SET_SIZE_MAX)
                return fail(ret_error, -EINVAL, "is not a working set: wrong kind or size of file");
        file = malloc((size_t) st.st_size);
        if (!file)
                return fail(ret_error, -ENOMEM, strerror(ENOMEM));
        for (off_t done = 0; done < st.st_size;) {
                ssize_t n = pread(fd, (char *) file + done, (size_t) (st.st_size - done), done);

                if (n <= 0)
                        return fail(ret_error, n < 0 ? -errno : -EIO, n < 0 ? strerror(errno) : "became shorter");
                done += n;
        }
        return replay_new(ret, file, (uint64_t) st.st_size, target, ret_notice, ret_error);
}

struct replay *replay_free(struct replay *replay) {
        if (!replay)
                return NULL;
        free(replay->runs);
        free(replay);
        return NULL;
}
