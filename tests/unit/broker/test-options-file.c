/* SPDX-License-Identifier: MIT */
/* The configuration file: the same options by the same names, and each way of getting it wrong. */
#include "broker/options-file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/options-help.h"
#include "broker/options.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "tests/lib/test.h"

#define ARGS_MAX 16

static char path[64];

static void write_bytes(const char *text, size_t n) {
        int fd;

        (void) snprintf(path, sizeof path, "/tmp/pagebroker-conf-XXXXXX");
        fd = mkstemp(path);
        cr_assert(fd >= 0 && write(fd, text, n) == (ssize_t) n);
        (void) close(fd);
}

/* What is said on `stream` meanwhile. */
struct said {
        int file, saved, stream;
        char text[16384];
};

static void said_begin(struct said *said, FILE *stream) {
        (void) fflush(stream);
        said->stream = fileno(stream);
        said->file = memfd_new("said", 0, 4096);
        said->saved = dup(said->stream);
        cr_assert(said->file >= 0 && said->saved >= 0 && dup2(said->file, said->stream) >= 0);
}

static void said_end(struct said *said) {
        ssize_t n;

        (void) fflush(NULL);
        cr_assert(dup2(said->saved, said->stream) >= 0);
        n = pread(said->file, said->text, sizeof said->text - 1, 0);
        said->text[n < 0 ? 0 : n] = 0;
        (void) close(said->file);
        (void) close(said->saved);
}

static struct said said;

/* Parses a file with these bytes, before `args`. */
static int parse(struct options *options, const char *text, size_t n, const char *const args[]) {
        char *argv[ARGS_MAX + 2] = { strdup("pagebrokerd") }, config[128];
        int argc = 2, r;

        write_bytes(text, n);
        (void) snprintf(config, sizeof config, "--config=%s", path);
        argv[1] = strdup(config);
        for (; *args && argc < ARGS_MAX; args++)
                argv[argc++] = strdup(*args);
        said_begin(&said, stderr);
        r = options_parse(options, argc, argv);
        said_end(&said);
        for (int i = 0; i < argc; i++)
                free(argv[i]); /* getopt only permutes them */
        (void) unlink(path);
        return r;
}

#define PARSE(options, text, ...) \
        parse((options), (text), strlen(text), (const char *const[]) { __VA_ARGS__ __VA_OPT__(,) NULL })

TEST(options_file, assigns_options_by_their_names) {
        struct options options;

        cr_assert_eq(PARSE(&options, "# a machine\n"
                                     "name = web1\n"
                                     "memory = \"ram,size=4G\"\n"
                                     "memory = 'flash,size=1M,source-offset=4K'  # zeros\n"
                                     "\n"
                                     "region=\"4G,size=2G,memory=ram,offset=2G\"\n"
                                     "allow = device:1000\n"
                                     "allow = vmm:0\n"
                                     "fill = off\n"
                                     "source-timeout = 2.5\n"
                                     "verbose = on\n"),
                     OPTIONS_RUN, "%s", said.text);
        cr_assert_str_eq(options.name, "web1");
        cr_assert_eq(options.n_memories, 2);
        cr_assert_str_eq(options.memories[0].name, "ram");
        cr_assert_eq(options.memories[0].size, 4ull << 30);
        cr_assert_eq(options.memories[1].source_offset, 4096);
        cr_assert_eq(options.n_regions, 1);
        cr_assert_eq(options.regions[0].offset, 2ull << 30);
        cr_assert_eq(options.n_allow, 2);
        cr_assert_eq(options.allow[0].uid, 1000);
        cr_assert_eq(options.allow[1].role, PB_AS_VMM);
        cr_assert(!options.pager.fill);
        cr_assert_eq(options.pager.source_timeout_us, 2500000);
        cr_assert_eq(options.log_level, LOG_DEBUG);
        options_done(&options);
}

TEST(options_file, switch_may_be_off) {
        struct options options;

        cr_assert_eq(PARSE(&options, "memory=\"ram,size=1M\"\nquiet = off\n"), OPTIONS_RUN);
        cr_assert_eq(options.log_level, LOG_INFO);
        options_done(&options);
}

TEST(options_file, takes_long_values_whole) {
        struct options options;
        char text[6000], source[5000] = "file:/";

        memset(source + 6, 'x', sizeof source - 7);
        (void) snprintf(text, sizeof text, "memory = \"ram,source=%s\"\n", source);
        cr_assert_eq(PARSE(&options, text), OPTIONS_RUN, "%s", said.text);
        cr_assert_str_eq(options.memories[0].source, source);
        options_done(&options);
}

/* Quoted, in a variable, or within a word: no comment. */
TEST(options_file, value_may_look_like_a_comment) {
        struct options options;

        (void) setenv("PB_TEST_NAME", "web1", 1);
        cr_assert_eq(PARSE(&options, "memory = \"ram,source=nbd://host/#samples=1\" # a\n"
                                     "memory = 'rom,source=nbd://host//*x*/\\\\' // b\n"
                                     "name = ${PB_TEST_NAME:-#a'b} /* c */\n"
                                     "# d"),
                     OPTIONS_RUN, "%s", said.text);
        cr_assert_str_eq(options.memories[0].source, "nbd://host/#samples=1");
        cr_assert_str_eq(options.memories[1].source, "nbd://host//*x*/\\");
        cr_assert_str_eq(options.name, "web1");
        options_done(&options);
}

TEST(options_file, of_nothing_but_comments_is_empty) {
        struct options options;

        cr_assert_eq(PARSE(&options, "# name = web1\n/* name = web2 */", "--memory=ram,size=1M"), OPTIONS_RUN, "%s",
                     said.text);
        cr_assert_eq(options.n_memories, 1);
        options_done(&options);
        cr_assert_eq(PARSE(&options, "", "--memory=ram,size=1M"), OPTIONS_RUN, "%s", said.text);
        options_done(&options);
}

TEST(options_file, yields_to_the_command_line_wherever_that_names_it) {
        struct options options;

        cr_assert_eq(PARSE(&options, "memory = \"ram,size=1M\"\nname = web1\nspin = 7\nquiet = on\n", "--name=web2", "-v"),
                     OPTIONS_RUN, "%s", said.text);
        cr_assert_str_eq(options.name, "web2");
        cr_assert_eq(options.pager.spin_us, 7);
        cr_assert_eq(options.log_level, LOG_DEBUG);
        options_done(&options);
}

TEST(options_file, list_yields_as_a_whole) {
        struct options options;

        cr_assert_eq(PARSE(&options, "memory = \"a,size=1M\"\nmemory = \"b,size=1M\"\n", "--memory=c,size=1M"), OPTIONS_RUN);
        cr_assert_eq(options.n_memories, 1);
        cr_assert_str_eq(options.memories[0].name, "c");
        options_done(&options);
}

/* ---- what is refused: the message names line and key ---- */

static const struct {
        const char *text;
        const char *words;
        unsigned line;
} refused[] = {
        { "name = web1\ncolour = red\n", "no such option 'colour'", 2 },
        { "check = on\n", "no such option 'check'", 1 },
        { "config = /etc/passwd\n", "no such option 'config'", 1 },
        { "\n\nspin = 99999\n", "--spin: '99999': a number from 0 to 10000", 3 },
        { "fill = perhaps\n", "--fill: 'perhaps': on or off", 1 },
        { "verbose = loud\n", "--verbose: 'loud': on or off", 1 },
        { "memory = \"ram,colour=red\"\n", "--memory: unknown key 'colour'", 1 },
        { "name = a\nmemory = ram,size=1M\n", "goes into quotes", 2 },
        { "name web1\n", "missing equal sign after option 'name'", 1 },
        { "name =\n", "premature end of file", 2 },
        { "[name]\nx = y\n", "no such option '[name]'", 1 },
        { "include(\"/etc/passwd\")\n", "no such option 'include'", 1 },
        /* Comments do not move what follows. */
        { "# a\n#\n  ## b\ncolour = red\n", "no such option 'colour'", 4 },
        { "name = web1 # its name\nspin = many\n", "--spin: 'many'", 2 },
        { "// a\nname = web1 // its name\nspin = many\n", "--spin: 'many'", 3 },
        { "/* a */ name = web1 /* b\n * c # d\n */\nspin = many\n", "--spin: 'many'", 4 },
        { "# it's \"no\" string\nname =\n", "premature end of file", 3 },
        { "# a\nname = \"a\nb\"\nspin = many\n", "--name: name 'a\nb'", 3 },
        { "# a\n/* b\n# */ colour = red\n", "no such option 'colour'", 3 },
        { "# a\nname = web1 /* b\nquiet = on\n", "the comment that begins here has no end", 2 },
};

TEST(options_file, that_is_wrong_is_refused_with_file_line_and_key) {
        struct options options;
        char where[128];

        for (unsigned i = 0; i < ELEMENTS(refused); i++) {
                cr_assert_eq(PARSE(&options, refused[i].text, "--memory=ram,size=1M"), -EINVAL, "%s", refused[i].text);
                (void) snprintf(where, sizeof where, "pagebrokerd: %s:%u: ", path, refused[i].line);
                cr_assert(strstr(said.text, where), "no '%s' in: %s", where, said.text);
                cr_assert(strstr(said.text, refused[i].words), "no '%s' in: %s", refused[i].words, said.text);
                options_done(&options);
        }
}

TEST(options_file, value_that_the_command_line_replaces_must_be_right_too) {
        struct options options;

        cr_assert_eq(PARSE(&options, "memory = \"ram,size=1M\"\nspin = many\n", "--spin=5"), -EINVAL);
        cr_assert(strstr(said.text, ":2: --spin: 'many'"), "%s", said.text);
        options_done(&options);
}

TEST(options_file, error_on_the_command_line_is_not_said_to_be_in_the_file) {
        struct options options;

        cr_assert_eq(PARSE(&options, "memory = \"ram,size=1M\"\n", "--spin=many"), -EINVAL);
        cr_assert(strstr(said.text, "pagebrokerd: --spin: 'many'"), "%s", said.text);
        options_done(&options);
}

/* What is behind the zero byte would be left out. */
TEST(options_file, that_has_a_zero_byte_is_refused) {
        static const char text[] = "name = web1\n\0quiet = on\n";
        struct options options;

        cr_assert_eq(parse(&options, text, sizeof text - 1, (const char *const[]) { "--memory=ram,size=1M", NULL }),
                     -EINVAL);
        cr_assert(strstr(said.text, "zero byte"), "%s", said.text);
}

TEST(options_file, that_is_not_there_or_no_file_is_refused) {
        static const char *const bad[] = { "/tmp", "/dev/null", "/no/such/file" };
        struct options options;

        for (unsigned i = 0; i < ELEMENTS(bad); i++) {
                char *argv[] = { strdup("pagebrokerd"), strdup("--config"), strdup(bad[i]), NULL };

                said_begin(&said, stderr);
                cr_assert_eq(options_parse(&options, 3, argv), -EINVAL);
                said_end(&said);
                cr_assert(strstr(said.text, "--config=") && strstr(said.text, bad[i]), "%s", said.text);
                for (unsigned k = 0; k < 3; k++)
                        free(argv[k]);
        }
}

/* ---- one list of options ---- */

static bool is_command(const char *name) {
        return strcmp(name, "config") == 0 || strcmp(name, "check") == 0 || strcmp(name, "help") == 0 ||
               strcmp(name, "version") == 0;
}

TEST(options_file, knows_every_option_of_the_command_line) {
        struct options options;
        char text[256];

        for (const struct option *option = options_table(); option->name; option++) {
                bool known;

                /* A value that no option takes: one that is known complains about it, not about its name. */
                (void) snprintf(text, sizeof text, "%s = \"\\x01\"\n", option->name);
                (void) PARSE(&options, text);
                known = !strstr(said.text, "no such option");
                cr_assert(known != is_command(option->name), "%s: %s", option->name, said.text);
                options_done(&options);
        }
}

TEST(options_file, help_names_every_option) {
        char text[128];

        said_begin(&said, stdout);
        options_print_help();
        said_end(&said);
        for (const struct option *option = options_table(); option->name; option++) {
                const char *at;

                (void) snprintf(text, sizeof text, "--%s", option->name);
                at = strstr(said.text, text);
                cr_assert(at, "--help does not name %s", text);
        }
}
