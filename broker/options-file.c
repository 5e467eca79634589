/* SPDX-License-Identifier: MIT */
#include "broker/options-file.h"

#include <assert.h>
#include <confuse.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"

/* libconfuse hands its callbacks nothing of ours. */
static struct {
        const char *path;
        const struct option *table;
        struct options_file *file;
} reading;

static void cfg_freep(cfg_t **cfg) {
        if (*cfg)
                (void) cfg_free(*cfg);
}

static void on_error(cfg_t *cfg, const char *format, va_list args) {
        assert(format); /* gcc takes the sanitizers' look at it for a doubt */
        (void) fprintf(stderr, "pagebrokerd: %s:%d: ", reading.path, cfg->line);
        (void) vfprintf(stderr, format, args);
        (void) fputc('\n', stderr);
        if (strstr(format, "unexpected token"))
                (void) fprintf(stderr, "pagebrokerd: %s:%d: a value with commas, blanks, '#' or '=' goes into quotes\n",
                               reading.path, cfg->line);
}

static bool is_excluded(const struct option *option, const int *excluded) {
        for (; *excluded; excluded++)
                if (*excluded == option->val)
                        return true;
        return false;
}

/* Called after each assignment, with the parser still in its line. */
static int on_assigned(cfg_t *cfg, cfg_opt_t *assigned) {
        struct options_file *file = reading.file;
        const char *value = cfg_opt_getnstr(assigned, 0);
        const struct option *option = reading.table;
        struct options_file_line *lines;

        while (strcmp(option->name, assigned->name) != 0)
                option++;
        lines = reallocarray(file->lines, file->n_lines + 1, sizeof *lines);
        if (!lines)
                return -1;
        file->lines = lines;
        lines[file->n_lines] = (struct options_file_line) {
                .option = option->val,
                .name = option->name,
                .has_argument = option->has_arg != no_argument,
                .number = cfg->line,
                .value = strdup(value ?: ""),
        };
        return lines[file->n_lines].value ? (file->n_lines++, 0) : -1;
}

/* libconfuse's table from getopt's, so that there is one. */
static cfg_opt_t *make_table(const struct option *table, const int *excluded) {
        unsigned n = 0, i = 0;
        cfg_opt_t *ret;

        while (table[n].name)
                n++;
        ret = calloc(n + 1, sizeof *ret);
        for (; ret && table->name; table++)
                if (!is_excluded(table, excluded)) {
                        ret[i] = (cfg_opt_t) CFG_STR(table->name, NULL, CFGF_NODEFAULT);
                        ret[i++].validcb = on_assigned;
                }
        if (ret)
                ret[i] = (cfg_opt_t) CFG_END();
        return ret;
}

/* The parser ends the process when a read fails, as a directory's does. */
static FILE *open_regular(const char *path) {
        _cleanup_fclose_ FILE *f = fopen(path, "re");
        struct stat st;

        if (!f || fstat(fileno(f), &st) < 0)
                return NULL;
        if (!S_ISREG(st.st_mode)) {
                errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
                return NULL;
        }
        return PTR_TAKE(f);
}

int options_file_read(struct options_file *ret, const char *path, const struct option *table, const int *excluded) {
        _cleanup_fclose_ FILE *f = open_regular(path);
        _cleanup_free_ cfg_opt_t *opts = NULL;
        _cleanup_(cfg_freep) cfg_t *cfg = NULL;

        *ret = (struct options_file) {};
        if (!f) {
                (void) fprintf(stderr, "pagebrokerd: --config=%s: %s\n", path, strerror(errno));
                return -EINVAL;
        }
        opts = make_table(table, excluded);
        cfg = opts ? cfg_init(opts, CFGF_NONE) : NULL;
        if (!cfg)
                return -ENOMEM;
        reading.path = path;
        reading.table = table;
        reading.file = ret;
        (void) cfg_set_error_function(cfg, on_error);
        if (cfg_parse_fp(cfg, f) == CFG_SUCCESS)
                return 0;
        options_file_done(ret);
        return -EINVAL;
}

void options_file_done(struct options_file *file) {
        for (unsigned i = 0; i < file->n_lines; i++)
                free(file->lines[i].value);
        free(file->lines);
        *file = (struct options_file) {};
}
