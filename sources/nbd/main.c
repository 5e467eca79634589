/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/macro.h"
#include "common/privileges.h"
#include "sources/nbd/nbd.h"

static bool has_prefix(const char *text, const char *prefix, const char **ret_rest) {
        size_t n = strlen(prefix);

        *ret_rest = text + n;
        return strncmp(text, prefix, n) == 0;
}

static int parse_number(const char *text, unsigned min, unsigned max, unsigned *ret) {
        char *end;
        unsigned long value = strtoul(text, &end, 10);

        if (end == text || *end || value < min || value > max)
                return -EINVAL;
        *ret = (unsigned) value;
        return 0;
}

/* "connections=2&samples=0&release=1": what follows the URI's '#'. */
static int parse_fragment(struct nbd_options *options, char *fragment) {
        unsigned release;
        const char *value;
        char *item;
        int r = 0;

        while (r == 0 && fragment && (item = strsep(&fragment, "&"))) {
                if (has_prefix(item, "connections=", &value))
                        r = parse_number(value, 1, CONNECTIONS_MAX, &options->connections);
                else if (has_prefix(item, "samples=", &value))
                        r = parse_number(value, 0, SAMPLES_MAX, &options->samples);
                else if (has_prefix(item, "release=", &value)) {
                        r = parse_number(value, 0, 1, &release);
                        options->release = r == 0 && release;
                } else if (*item)
                        r = -EINVAL;
                if (r < 0)
                        log_error("nbd: after '#': '%s': known are connections=1 to %u, samples=0 to %u, release=0 or 1", item,
                                  CONNECTIONS_MAX, SAMPLES_MAX);
        }
        return r;
}

static int parse(struct nbd_options *options, int argc, char *argv[]) {
        const char *value;

        for (int i = 1; i < argc; i++)
                if (has_prefix(argv[i], "--name=", &value))
                        options->vm = value;
                else if (has_prefix(argv[i], "--log-level=", &value))
                        options->log_level = atoi(value);
                else if (has_prefix(argv[i], "--user=", &value))
                        options->user = *value ? value : NULL;
                else if (has_prefix(argv[i], "--seccomp=", &value))
                        options->seccomp = strcmp(value, "on") == 0;
                else if (argv[i][0] != '-' && !options->uri)
                        options->uri = argv[i];
                else
                        return -EINVAL;
        if (!options->uri)
                return -EINVAL;
        log_open("pagebroker-nbd", options->vm);
        log_set_level(options->log_level);
        (void) strsep(&(char *) { options->uri }, "#"); /* ends the URI at its '#' */
        return 0;
}

static int say_failed(const char *text) {
        struct pb_helper_opened opened = { .magic = PB_HELPER_MAGIC, .error = -EINVAL };

        (void) snprintf(opened.text, sizeof opened.text, "%s", text);
        (void) !write(PB_HELPER_SOCKET_FD, &opened, sizeof opened);
        return EXIT_FAILURE;
}

/*
 * Whatever a server or a library does to the worker, the next one takes over its reads: they are in the memory that the
 * broker shares with both. Ends when a worker ends by itself, because the broker is gone or the source cannot be had.
 */
static int supervise(const struct nbd_options *options) {
        for (;;) {
                pid_t pid = fork();
                int status;

                if (pid < 0)
                        return say_failed("cannot start its worker");
                if (pid == 0)
                        _exit(worker_run(options));
                while (waitpid(pid, &status, 0) < 0)
                        if (errno != EINTR)
                                return EXIT_FAILURE;
                if (WIFEXITED(status) && WEXITSTATUS(status) <= EXIT_FAILURE)
                        return WEXITSTATUS(status);
                if (WIFSIGNALED(status))
                        log_error("the worker was killed by signal %d%s; another one takes over", WTERMSIG(status),
                                  WTERMSIG(status) == SIGSYS ? " (a system call that its filter does not allow)" : "");
                else
                        log_error("the worker ended with status %d; another one takes over", WEXITSTATUS(status));
                (void) sleep(1);
        }
}

int main(int argc, char *argv[]) {
        struct nbd_options options = { .connections = 4, .samples = 8, .seccomp = true, .log_level = LOG_INFO };
        char *fragment = NULL;

        for (int i = 1; i < argc; i++)
                if (argv[i][0] != '-') {
                        fragment = strchr(argv[i], '#');
                        fragment = fragment ? fragment + 1 : NULL;
                }
        if (parse(&options, argc, argv) < 0 || getppid() == 1) {
                log_open("pagebroker-nbd", NULL);
                log_error("is started by pagebrokerd for --memory=NAME,source=nbd:URI");
                return 2;
        }
        if (parse_fragment(&options, fragment) < 0)
                return say_failed("what follows '#' cannot be read; known are connections=, samples= and release=");
        /* The end of the socket is the end: a terminal's or a service manager's signal must not come before the broker's. */
        (void) signal(SIGINT, SIG_IGN);
        (void) signal(SIGTERM, SIG_IGN);
        (void) signal(SIGPIPE, SIG_IGN);
        if (privileges_drop(options.user) < 0)
                return say_failed("cannot drop its privileges");
        return supervise(&options);
}
