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

/* Where a comment that begins at `p` ends: `p` if it does not, NULL if none begins. `word`: inside of an unquoted word, which
 * may have slashes. */
static char *comment_end(char *p, bool word) {
        char *end;

        if (*p == '#' || (!word && p[0] == '/' && p[1] == '/'))
                return p + strcspn(p, "\n");
        if (word || p[0] != '/' || p[1] != '*')
                return NULL;
        end = strstr(p + 2, "*/");
        return end ? end + 2 : p;
}

/* What is taken as it is: behind a quoted string, or a variable in braces; or `p`. */
static char *opaque_end(char *p) {
        char *end;

        if (p[0] == '$' && p[1] == '{')
                return (end = strchr(p, '}')) ? end + 1 : p;
        if (*p != '"' && *p != '\'')
                return p;
        for (end = p + 1; *end && *end != *p;)
                if (*p == '"' && end[0] == '$' && end[1] == '{' && strchr(end, '}'))
                        end = strchr(end, '}') + 1;
                else
                        end += *end == '\\' && end[1] ? 2 : 1;
        return *end ? end + 1 : end;
}

/* libconfuse 3.3 counts lines of comments more than once (and another version may count otherwise): it does not get to see
 * any. Lines stay where they are. Returns the beginning of a comment that has no end, or NULL. */
static const char *blank_comments(char *text) {
        bool word = false;

        for (char *p = text, *end; *p;) {
                if ((end = opaque_end(p)) > p) {
                        p = end;
                        word = false;
                } else if ((end = comment_end(p, word))) {
                        if (end == p)
                                return p;
                        for (; p < end; p++)
                                *p = *p == '\n' ? '\n' : ' ';
                } else
                        word = !strchr(" \t\r\n={}()+,", *p++);
        }
        return NULL;
}

static unsigned line_of(const char *text, const char *at) {
        unsigned line = 1;

        for (; text < at; text++)
                line += *text == '\n';
        return line;
}

/* To its end, or to a zero byte, which no text has. */
static int read_text(char **ret, FILE *f) {
        _cleanup_free_ char *text = NULL;
        size_t room = 0;
        ssize_t n;

        errno = 0;
        n = getdelim(&text, &room, 0, f);
        if (ferror(f) || errno)
                return errno ? -errno : -EIO;
        if (n < 0 && !(text = strdup("")))
                return -ENOMEM;
        if (n > 0 && (text[n - 1] == 0 || !feof(f)))
                return -EILSEQ;
        *ret = PTR_TAKE(text);
        return 0;
}

/* Who waits for a pipe's end waits for ever; a directory cannot be read. */
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
        _cleanup_free_ char *text = NULL;
        const char *endless;
        int r = f ? read_text(&text, f) : -errno;

        *ret = (struct options_file) {};
        if (r < 0) {
                (void) fprintf(stderr, "pagebrokerd: --config=%s: %s\n", path,
                               r == -EILSEQ ? "has a zero byte; it has to be text" : strerror(-r));
                return r == -ENOMEM ? r : -EINVAL;
        }
        endless = blank_comments(text);
        if (endless) {
                (void) fprintf(stderr, "pagebrokerd: %s:%u: the comment that begins here has no end: it lacks a '*/'\n",
                               path, line_of(text, endless));
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
        if (cfg_parse_buf(cfg, text) == CFG_SUCCESS)
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
