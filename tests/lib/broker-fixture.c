/* SPDX-License-Identifier: MIT */
#include "tests/lib/broker-fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/lib/descriptors.h"
#include "tests/lib/image.h"
#include "tests/lib/janitor.h"
#include "tests/lib/process.h"

#ifndef TEST_SANITIZED
#define TEST_SANITIZED 0
#endif

#define BROKERS_MAX 16
#define ARGS_MAX 128
#define LISTEN_FDS_START 3

/* Copies: a failing test leaves its own variables behind. */
static struct {
        pid_t pid;
        char log_path[sizeof((struct test_broker *) NULL)->log_path];
} started[BROKERS_MAX];

/* What the child needs, prepared before the fork: after it only calls that are safe there. */
struct launch {
        const char *argv[ARGS_MAX];
        const char *envp[ARGS_MAX];
        char listen_pid[32];
        int log;
        int listener; /* -1: none */
};

static const char *program_path(void) {
        return getenv("PAGEBROKERD") ?: TEST_BUILD_ROOT "/broker/pagebrokerd";
}

/* ---- the log ---- */

static char *log_read(const char *path) {
        _cleanup_fclose_ FILE *f = fopen(path, "re");
        char *text = NULL;
        size_t size = 0;

        if (!f || getdelim(&text, &size, 0, f) < 0) {
                free(text);
                return strdup("");
        }
        return text;
}

bool test_broker_logged(const struct test_broker *broker, const char *text) {
        _cleanup_free_ char *log = log_read(broker->log_path);

        return strstr(log, text) != NULL;
}

bool test_broker_will_log(const struct test_broker *broker, const char *text) {
        return EVENTUALLY(test_broker_logged(broker, text));
}

void test_broker_show_logs(void) {
        for (unsigned i = 0; i < BROKERS_MAX; i++) {
                _cleanup_free_ char *text = NULL;

                if (!started[i].pid)
                        continue;
                text = log_read(started[i].log_path);
                fprintf(stderr, "---- log of pagebrokerd %d ----\n%s---- end ----\n", (int) started[i].pid, text);
        }
}

static void log_register(const struct test_broker *broker) {
        for (unsigned i = 0; i < BROKERS_MAX; i++)
                if (!started[i].pid) {
                        started[i].pid = broker->pid;
                        memcpy(started[i].log_path, broker->log_path, sizeof started[i].log_path);
                        return;
                }
}

static void log_unregister(const struct test_broker *broker) {
        for (unsigned i = 0; i < BROKERS_MAX; i++)
                if (started[i].pid == broker->pid)
                        started[i].pid = 0;
}

/* ---- start ---- */

static int notify_socket(char *ret_address, size_t size) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        socklen_t length = sizeof addr;
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        /* An abstract address of the kernel's choice: reachable for a broker that has changed its uid. */
        cr_assert(fd >= 0 && bind(fd, (struct sockaddr *) &addr, sizeof(sa_family_t)) == 0);
        cr_assert(getsockname(fd, (struct sockaddr *) &addr, &length) == 0);
        (void) snprintf(ret_address, size, "NOTIFY_SOCKET=@%.*s", (int) (length - sizeof(sa_family_t) - 1),
                        addr.sun_path + 1);
        return fd;
}

static int listener_socket(const char *path) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        (void) snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
        cr_assert(fd >= 0 && bind(fd, (struct sockaddr *) &addr, sizeof addr) == 0 && listen(fd, 16) == 0);
        return fd;
}

static void launch_child(struct launch *launch, pid_t parent) {
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(126);
        if (dup2(launch->log, STDOUT_FILENO) < 0 || dup2(launch->log, STDERR_FILENO) < 0)
                _exit(126);
        if (launch->listener >= 0) {
                int fd = fcntl(launch->listener, F_DUPFD, LISTEN_FDS_START + 1);

                (void) snprintf(launch->listen_pid, sizeof launch->listen_pid, "LISTEN_PID=%d", (int) getpid());
                if (fd < 0 || dup2(fd, LISTEN_FDS_START) < 0)
                        _exit(126);
                (void) syscall(SYS_close_range, LISTEN_FDS_START + 1, ~0u, 0);
        } else
                (void) syscall(SYS_close_range, LISTEN_FDS_START, ~0u, 0);
        (void) execvpe(launch->argv[0], (char *const *) launch->argv, (char *const *) launch->envp);
        fprintf(stderr, "%s: %m\n", launch->argv[0]);
        _exit(127);
}

const char *test_broker_libexec = TEST_BUILD_ROOT "/sources/nbd";

/* LeakSanitizer cannot work under the filter: in a build with sanitizers the broker runs without one, if the test does
 * not ask for it. */
static bool is_filtered(const char *const args[]) {
        for (; *args; args++)
                if (strncmp(*args, "--seccomp=", 10) == 0)
                        return strcmp(*args, "--seccomp=on") == 0;
        return !TEST_SANITIZED;
}

static void launch_environment(struct launch *launch, const char *notify, bool activated, bool filtered) {
        static char libexec[256];
        unsigned n = 0;

        for (char **e = environ; *e && n < ARGS_MAX - 5; e++)
                if (strncmp(*e, "NOTIFY_", 7) != 0 && strncmp(*e, "LISTEN_", 7) != 0 &&
                    (strncmp(*e, "LSAN_OPTIONS=", 13) != 0 || !filtered))
                        launch->envp[n++] = *e;
        launch->envp[n++] = notify;
        (void) snprintf(libexec, sizeof libexec, "PAGEBROKER_LIBEXEC=%s", test_broker_libexec);
        launch->envp[n++] = libexec;
        if (TEST_SANITIZED && filtered)
                launch->envp[n++] = "LSAN_OPTIONS=detect_leaks=0";
        if (activated) {
                launch->envp[n++] = launch->listen_pid;
                launch->envp[n++] = "LISTEN_FDS=1";
        }
        launch->envp[n] = NULL;
}

/* Before the broker's own command line. */
static unsigned supervisor_arguments(struct launch *launch, const char *const options[]) {
        unsigned n = 0;

        launch->argv[n++] = TEST_BUILD_ROOT "/examples/supervisor/supervisor";
        launch->argv[n++] = "--die-together";
        while (options && *options)
                launch->argv[n++] = *options++;
        launch->argv[n++] = "--";
        return n;
}

/* $PAGEBROKERD_WRAPPER: a command and its arguments, separated by blanks, that runs the broker; it must keep the
 * process id (strace -D does). */
static void launch_arguments(struct launch *launch, char *wrapper, const char *socket,
                             const struct test_broker_options *options) {
        unsigned n = options->supervised ? supervisor_arguments(launch, options->supervisor) : 0;
        const char *const *args = options->args;

        for (char *word; wrapper && (word = strsep(&wrapper, " "));)
                launch->argv[n++] = word;
        launch->argv[n++] = program_path();
        launch->argv[n++] = "--name=test";
        launch->argv[n++] = "--bus=none"; /* of the machine; a test may name another */
        launch->argv[n++] = "--heal-interval=0"; /* a poisoned page stays so until the test heals it */
        launch->argv[n++] = "--read-around=4K";  /* tests count pages */
        if (socket)
                launch->argv[n++] = socket;
        if (TEST_SANITIZED && !is_filtered(args))
                launch->argv[n++] = "--seccomp=off";
        for (; *args && n < ARGS_MAX - 1; args++)
                launch->argv[n++] = *args;
        launch->argv[n] = NULL;
}

static void broker_launch(struct test_broker *broker, const struct test_broker_options *options) {
        const char *wrapper_words = getenv("PAGEBROKERD_WRAPPER");
        _cleanup_free_ char *wrapper = wrapper_words ? strdup(wrapper_words) : NULL;
        char notify[160], socket[128];
        struct launch launch = { .listener = -1 };
        pid_t parent = getpid();

        *broker = (struct test_broker) { .pidfd = -1, .notify = -1 };
        (void) snprintf(broker->dir, sizeof broker->dir, "%s/broker-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        cr_assert(mkdtemp(broker->dir) != NULL && chmod(broker->dir, 0755) == 0, "%s: %s", broker->dir,
                  strerror(errno));
        (void) snprintf(broker->address, sizeof broker->address, "%s/socket", broker->dir);
        (void) snprintf(broker->log_path, sizeof broker->log_path, "%s/log", broker->dir);

        test_janitor_start();
        broker->notify = notify_socket(notify, sizeof notify);
        launch.log = open(broker->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        cr_assert(launch.log >= 0);
        if (options->activated)
                launch.listener = listener_socket(broker->address);
        (void) snprintf(socket, sizeof socket, "--socket=%s", broker->address);
        launch_environment(&launch, notify, options->activated, is_filtered(options->args));
        launch_arguments(&launch, wrapper, options->activated ? NULL : socket, options);

        broker->pid = fork();
        cr_assert(broker->pid >= 0);
        if (broker->pid == 0)
                launch_child(&launch, parent);
        broker->served = options->supervised ? 0 : broker->pid;
        broker->pidfd = (int) syscall(SYS_pidfd_open, broker->pid, 0);
        cr_assert(broker->pidfd >= 0);
        test_janitor_watch(broker->pid);
        (void) fd_close(launch.log);
        (void) fd_close(launch.listener);
}

/* Reads what it tells systemd until it is ready or has ended. */
static bool broker_wait_ready(struct test_broker *broker) {
        for (;;) {
                struct pollfd p[2] = { { .fd = broker->notify, .events = POLLIN },
                                       { .fd = broker->pidfd, .events = POLLIN } };
                char text[1024];
                ssize_t n;

                if (poll(p, 2, TEST_PATIENCE_US / USEC_PER_MSEC) <= 0)
                        return false;
                if (!(p[0].revents & POLLIN))
                        return false; /* it has ended, and everything it said has been read */
                n = recv(broker->notify, text, sizeof text - 1, 0);
                cr_assert(n >= 0);
                text[n] = 0;
                if (strncmp(text, "READY=1", 7) == 0 || strstr(text, "\nREADY=1")) {
                        const char *status = strstr(text, "STATUS=broker ");

                        if (status)
                                cr_assert(sscanf(status, "STATUS=broker %d", &broker->served) == 1);
                        broker->n_starts++;
                        return true;
                }
        }
}

/* If it has ended by itself: how? */
static void broker_explain_end(const struct test_broker *broker) {
        siginfo_t info = { 0 };

        if (waitid(P_PID, (id_t) broker->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
                return;
        if (info.si_code == CLD_EXITED)
                fprintf(stderr, "pagebrokerd ended with status %d\n", info.si_status);
        else
                fprintf(stderr, "pagebrokerd was killed by signal %d%s\n", info.si_status,
                        info.si_status == SIGSYS ? ": a system call that its filter does not allow, see dmesg" : "");
}

/* Ends the object's life in this process. */
static void broker_forget(struct test_broker *broker) {
        log_unregister(broker);
        broker->pidfd = fd_close(broker->pidfd);
        broker->notify = fd_close(broker->notify);
        broker->running = false;
        (void) unlink(broker->address);
        (void) unlink(broker->log_path);
        (void) rmdir(broker->dir);
}

static int broker_wait_end(struct test_broker *broker) {
        int status;

        if (poll(&(struct pollfd) { .fd = broker->pidfd, .events = POLLIN }, 1, TEST_PATIENCE_US / USEC_PER_MSEC) !=
            1) {
                (void) kill(broker->pid, SIGKILL);
                cr_assert_fail("pagebrokerd does not end");
        }
        cr_assert(waitpid(broker->pid, &status, 0) == broker->pid);
        broker->running = false;
        return status;
}

void test_broker_start(struct test_broker *ret, const struct test_broker_options *options) {
        broker_launch(ret, options);
        log_register(ret);
        if (!broker_wait_ready(ret)) {
                broker_explain_end(ret);
                cr_assert_fail("pagebrokerd did not say READY=1");
        }
        ret->running = true;
        ret->n_descriptors = test_descriptors_count(ret->served);
}

void test_broker_kill_served(struct test_broker *broker) {
        cr_assert(kill(broker->served, SIGKILL) == 0);
}

void test_broker_wait_next(struct test_broker *broker) {
        cr_assert(broker_wait_ready(broker), "the next broker is not ready");
}

int test_broker_refuses(const char *const args[], char *log, size_t size) {
        struct test_broker broker;
        _cleanup_free_ char *text = NULL;
        bool ready;
        int status;

        broker_launch(&broker, &(struct test_broker_options) { .args = args });
        ready = broker_wait_ready(&broker);
        if (ready)
                (void) kill(broker.pid, SIGKILL);
        status = broker_wait_end(&broker);
        text = log_read(broker.log_path);
        (void) snprintf(log, size, "%s", text);
        broker_forget(&broker);
        cr_assert(!ready, "pagebrokerd said READY=1 to what it had to refuse");
        cr_assert(WIFEXITED(status), "pagebrokerd was killed by signal %d:\n%s", WTERMSIG(status), log);
        return WEXITSTATUS(status);
}

const char *test_memory(const char *name, const struct test_image *image, const char *more) {
        static char texts[16][320];
        static unsigned next;
        char *text = texts[next++ % 16];

        (void) snprintf(text, sizeof texts[0], "--memory=%s,size=%lluK,source=file:%s%s", name,
                        (unsigned long long) (image->spec.n_pages * TEST_PAGE / 1024), image->path, more);
        return text;
}

/* ---- end ---- */

bool test_broker_is_idle(struct test_broker *broker) {
        return EVENTUALLY(test_descriptors_count(broker->served) <= broker->n_descriptors);
}

bool test_broker_is_dead(struct test_broker *broker) {
        return poll(&(struct pollfd) { .fd = broker->pidfd, .events = POLLIN }, 1, 0) == 1;
}

void test_broker_stop(struct test_broker *broker) {
        int status;

        cr_assert(broker->running);
        if (test_broker_is_dead(broker)) {
                broker_explain_end(broker);
                cr_assert_fail("pagebrokerd ended by itself");
        }
        if (!broker->has_clients_at_stop && !test_broker_is_idle(broker)) {
                test_descriptors_show(broker->served);
                cr_assert_fail("pagebrokerd has %d descriptors open, %d when it was ready",
                               test_descriptors_count(broker->served), broker->n_descriptors);
        }
        cr_assert(kill(broker->pid, SIGTERM) == 0);
        status = broker_wait_end(broker);
        cr_assert(!WIFSIGNALED(status), "pagebrokerd was killed by signal %d", WTERMSIG(status));
        cr_assert(WEXITSTATUS(status) == 0, "pagebrokerd ended with status %d", WEXITSTATUS(status));
        cr_assert(!test_broker_logged(broker, "Sanitizer") && !test_broker_logged(broker, "runtime error:"));
        broker_forget(broker);
}

int test_broker_wait(struct test_broker *broker, char *told, size_t size) {
        int status = broker_wait_end(broker);
        size_t length = 0;

        while (length + 1 < size) {
                ssize_t n = recv(broker->notify, told + length, size - length - 1, MSG_DONTWAIT);

                if (n <= 0)
                        break;
                length += (size_t) n;
        }
        told[length] = 0;
        broker_forget(broker);
        cr_assert(!WIFSIGNALED(status), "pagebrokerd was killed by signal %d", WTERMSIG(status));
        return WEXITSTATUS(status);
}

void test_broker_kill(struct test_broker *broker) {
        cr_assert(kill(broker->pid, SIGKILL) == 0);
        (void) broker_wait_end(broker);
        broker_forget(broker);
}

long test_broker_rss_kib(const struct test_broker *broker) {
        return (long) test_process_kib(broker->pid, "RssAnon");
}
