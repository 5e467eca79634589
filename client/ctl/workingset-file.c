/* SPDX-License-Identifier: MIT */
#include "client/ctl/workingset.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/ctl/complain.h"
#include "common/fd.h"

#define STEP (1u << 20)

/* ---- in ---- */

void set_file_done(struct set_file *file) {
        free(file->data);
        *file = (struct set_file) {};
}

/* All of it, or one byte more than there can be. 0 or a negative errno. */
static int read_all(int fd, struct set_file *file) {
        for (uint64_t room = 0;;) {
                ssize_t n;

                if (file->size == room) {
                        void *more = realloc(file->data, room + STEP);

                        if (!more)
                                abort();
                        file->data = more;
                        room += STEP;
                }
                n = read(fd, (char *) file->data + file->size, room - file->size);
                if (n < 0 && errno != EINTR)
                        return -errno;
                if (n == 0 || file->size > PB_WORKING_SET_SIZE_MAX)
                        return 0;
                file->size += n > 0 ? (uint64_t) n : 0;
        }
}

int set_file_read(const char *path, struct set_file *ret) {
        bool is_input = strcmp(path, "-") == 0;
        _cleanup_close_ int fd = is_input ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC);
        _cleanup_set_file_ struct set_file file = {};
        const char *name = is_input ? "standard input" : path, *wrong;
        int r;

        if (fd < 0)
                return complain(STATUS_FAILURE, "%s: %s", name, strerror(errno));
        r = read_all(fd, &file);
        if (r < 0)
                return complain(STATUS_FAILURE, "%s: %s", name, strerror(-r));
        wrong = working_set_check(file.data, file.size, &file.view);
        if (wrong)
                return complain(STATUS_FAILURE, "%s %s", name, wrong);
        *ret = file;
        file = (struct set_file) {};
        return STATUS_OK;
}

/* ---- out ---- */

void set_output_done(struct set_output *output) {
        if (output->temporary)
                (void) unlink(output->temporary);
        free(output->temporary);
        output->temporary = NULL;
        output->fd = fd_close(output->fd);
}

static int open_temporary(struct set_output *output) {
        mode_t mask = umask(0);

        (void) umask(mask);
        if (asprintf(&output->temporary, "%s.XXXXXX", output->path) < 0)
                abort();
        output->fd = mkostemp(output->temporary, O_CLOEXEC);
        if (output->fd < 0) {
                free(output->temporary);
                output->temporary = NULL;
                return -errno;
        }
        return fchmod(output->fd, 0666 & ~mask) < 0 ? -errno : 0;
}

int set_output_open(struct set_output *ret, const char *path) {
        struct set_output output = { .path = path, .fd = -1 };
        struct stat st;
        int r = 0;

        if (strcmp(path, "-") == 0) {
                if (isatty(STDOUT_FILENO))
                        return complain(STATUS_USAGE, "standard output is a terminal: name a file");
                output.fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
                r = output.fd < 0 ? -errno : 0;
        } else if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
                return complain(STATUS_FAILURE, "%s: is no file", path);
        else
                r = open_temporary(&output);
        if (r < 0) {
                set_output_done(&output);
                return complain(STATUS_FAILURE, "%s: %s", path, strerror(-r));
        }
        *ret = output;
        return STATUS_OK;
}

int set_output_write(struct set_output *output, const void *data, uint64_t size) {
        for (uint64_t done = 0; done < size;) {
                ssize_t n = write(output->fd, (const char *) data + done, size - done);

                if (n < 0 && errno != EINTR)
                        return complain(STATUS_FAILURE, "%s: %s", output->path, strerror(errno));
                done += n > 0 ? (uint64_t) n : 0;
        }
        return STATUS_OK;
}

int set_output_keep(struct set_output *output) {
        if (!output->temporary)
                return STATUS_OK;
        if (fsync(output->fd) < 0 || rename(output->temporary, output->path) < 0)
                return complain(STATUS_FAILURE, "%s: %s", output->path, strerror(errno));
        free(output->temporary);
        output->temporary = NULL;
        return STATUS_OK;
}

/* ---- progress ---- */

static bool has_line;

void set_progress(const char *format, ...) {
        va_list ap;

        if (!isatty(STDERR_FILENO))
                return;
        va_start(ap, format);
        (void) fputs("\r\033[K", stderr);
        (void) vfprintf(stderr, format, ap);
        va_end(ap);
        (void) fflush(stderr);
        has_line = true;
}

void set_progress_end(void) {
        if (has_line)
                (void) fputs("\r\033[K", stderr);
        has_line = false;
}
