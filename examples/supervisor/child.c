/* SPDX-License-Identifier: MIT */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define LISTEN_FDS_START 3

/* Descriptors end up at 3, 4, ...; on the way there none may be overwritten that is still to be moved: first all of them
 * above that range, then each to its place. The copies above are closed by the exec. */
static int pass(const struct store *store) {
        int end = LISTEN_FDS_START + (int) store->n_entries;
        int *above = calloc(store->n_entries + 1, sizeof *above);

        if (!above)
                return -ENOMEM;
        for (unsigned i = 0; i < store->n_entries; i++) {
                above[i] = fcntl(store->entries[i].fd, F_DUPFD_CLOEXEC, end);
                if (above[i] < 0)
                        return -errno;
        }
        for (unsigned i = 0; i < store->n_entries; i++)
                if (dup2(above[i], LISTEN_FDS_START + (int) i) < 0)
                        return -errno;
        free(above);
        return 0;
}

static int set_number(const char *name, uint64_t value) {
        char text[32];

        (void) snprintf(text, sizeof text, "%" PRIu64, value);
        return setenv(name, text, 1) < 0 ? -errno : 0;
}

static int set_listen_environment(const struct store *store) {
        char *names = calloc(store->n_entries + 1, sizeof store->entries[0].name), *end = names;
        int r;

        if (!names)
                return -ENOMEM;
        for (unsigned i = 0; i < store->n_entries; i++)
                end += sprintf(end, "%s%s", i > 0 ? ":" : "", store->entries[i].name);
        r = setenv("LISTEN_FDNAMES", names, 1) < 0 ? -errno : 0;
        free(names);
        if (r == 0)
                r = set_number("LISTEN_FDS", store->n_entries);
        if (r == 0)
                r = set_number("LISTEN_PID", (uint64_t) getpid());
        return r;
}

/* In the child. We have one thread, so that everything may be called here. */
static int prepare(const struct child_options *options, pid_t parent) {
        sigset_t none;
        int r = 0;

        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        if (options->death_signal) {
                (void) prctl(PR_SET_PDEATHSIG, options->death_signal);
                if (getppid() != parent)
                        return -ESRCH;
        }
        (void) unsetenv("NOTIFY_SOCKET");
        (void) unsetenv("WATCHDOG_USEC");
        (void) unsetenv("WATCHDOG_PID");
        (void) unsetenv("FDSTORE");
        (void) unsetenv("LISTEN_FDS");
        (void) unsetenv("LISTEN_PID");
        (void) unsetenv("LISTEN_FDNAMES");
        if (options->notify)
                r = setenv("NOTIFY_SOCKET", options->notify, 1) < 0 ? -errno : 0;
        if (r == 0 && options->watchdog_us > 0)
                r = set_number("WATCHDOG_USEC", options->watchdog_us);
        if (r == 0 && options->store)
                r = set_number("FDSTORE", options->store->max);
        if (r == 0 && options->store && options->store->n_entries > 0) {
                r = set_listen_environment(options->store);
                if (r == 0)
                        r = pass(options->store);
        }
        return r;
}

pid_t child_start(const struct child_options *options) {
        pid_t parent = getpid(), pid = fork();
        int r;

        if (pid < 0)
                return -errno;
        if (pid > 0)
                return pid;
        r = prepare(options, parent);
        if (r == 0) {
                (void) execvp(options->argv[0], options->argv);
                r = -errno;
        }
        fprintf(stderr, "supervisor: %s: %s\n", options->argv[0], strerror(-r));
        _exit(127);
}
