/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/cleanup.h"
#include "tests/lib/janitor.h"

#define ARGS_MAX 32
#define PATH_SIZE 96

static const char *program_path(void) {
        return getenv("MINI_VMM") ?: TEST_BUILD_ROOT "/examples/mini-vmm/mini-vmm";
}

/* ---- the process ---- */

static void process_exec(const char *const argv[], int out) {
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dup2(out, STDOUT_FILENO) >= 0 && dup2(out, STDERR_FILENO) >= 0)
                (void) execv(argv[0], (char *const *) argv);
        fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
        _exit(127);
}

static void process_start(struct vmm_process *ret, const char *const argv[]) {
        int pipe_fds[2];

        cr_assert(pipe2(pipe_fds, O_CLOEXEC) == 0);
        test_janitor_start();
        ret->pid = fork();
        cr_assert(ret->pid >= 0);
        if (ret->pid == 0)
                process_exec(argv, pipe_fds[1]);
        test_janitor_watch(ret->pid);
        (void) close(pipe_fds[1]);
        ret->out = pipe_fds[0];
}

/* Returns the exit status. */
static int process_wait(struct vmm_process *process, char *text, size_t size) {
        size_t used = 0;
        ssize_t n;
        int status;

        while ((n = read(process->out, text + used, size - 1 - used)) > 0)
                used += (size_t) n;
        text[used] = 0;
        process->out = fd_close(process->out);
        cr_assert(waitpid(process->pid, &status, 0) == process->pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static unsigned args_append(const char *argv[static ARGS_MAX], unsigned n, const char *const more[]) {
        for (; *more; more++) {
                cr_assert(n < ARGS_MAX - 1);
                argv[n++] = *more;
        }
        argv[n] = NULL;
        return n;
}

/* ---- the snapshot ---- */

void vmm_snapshot_make(struct vmm_snapshot *ret, uint64_t size, const char *const options[]) {
        char memory[64], folder[PATH_SIZE], text[1024];
        const char *argv[ARGS_MAX];
        struct vmm_process process;
        unsigned n;
        int status;

        *ret = (struct vmm_snapshot) { .size = size, .low_size = size / 2 };
        (void) snprintf(ret->dir, sizeof ret->dir, "%s/mini-vmm-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        cr_assert(mkdtemp(ret->dir) != NULL);
        (void) snprintf(memory, sizeof memory, "--memory=%" PRIu64, size);
        (void) snprintf(folder, sizeof folder, "--snapshot=%s", ret->dir);
        n = args_append(argv, 0, (const char *const[]) { program_path(), "run", memory, folder, NULL });
        (void) args_append(argv, n, options);
        process_start(&process, argv);
        status = process_wait(&process, text, sizeof text);
        cr_assert(status == 0, "mini-vmm run ended with status %d: %s", status, text);
}

/* `ret` has room for PATH_SIZE bytes. */
static void snapshot_path(const struct vmm_snapshot *snapshot, const char *name, char *ret) {
        (void) snprintf(ret, PATH_SIZE, "%s/%s", snapshot->dir, name);
}

void vmm_snapshot_unlink(struct vmm_snapshot *snapshot) {
        char path[PATH_SIZE];

        snapshot_path(snapshot, "state", path);
        (void) unlink(path);
        snapshot_path(snapshot, "memory.img", path);
        (void) unlink(path);
        (void) rmdir(snapshot->dir);
}

uint64_t vmm_snapshot_offset(const struct vmm_snapshot *snapshot, uint64_t gpa) {
        return gpa >= VMM_HIGH_GPA ? gpa - VMM_HIGH_GPA + snapshot->low_size : gpa;
}

static int snapshot_open_image(const struct vmm_snapshot *snapshot) {
        char path[PATH_SIZE];
        int fd;

        snapshot_path(snapshot, "memory.img", path);
        fd = open(path, O_RDWR | O_CLOEXEC);
        cr_assert(fd >= 0, "%s: %s", path, strerror(errno));
        return fd;
}

void vmm_snapshot_flip(const struct vmm_snapshot *snapshot, uint64_t gpa) {
        off_t offset = (off_t) vmm_snapshot_offset(snapshot, gpa);
        int fd = snapshot_open_image(snapshot);
        uint8_t byte;

        cr_assert(pread(fd, &byte, 1, offset) == 1);
        byte = (uint8_t) ~byte;
        cr_assert(pwrite(fd, &byte, 1, offset) == 1);
        (void) close(fd);
}

uint64_t vmm_snapshot_read(const struct vmm_snapshot *snapshot, uint64_t gpa) {
        int fd = snapshot_open_image(snapshot);
        uint64_t word;

        cr_assert(pread(fd, &word, sizeof word, (off_t) vmm_snapshot_offset(snapshot, gpa)) == sizeof word);
        (void) close(fd);
        return word;
}

void vmm_gate_start(struct test_gate *ret, struct test_image *ret_image, const struct vmm_snapshot *snapshot) {
        *ret_image = (struct test_image) { .spec.n_pages = snapshot->size / TEST_PAGE };
        snapshot_path(snapshot, "memory.img", ret_image->path);
        test_gate_start(ret, ret_image);
}

void vmm_broker_start(struct test_broker *ret, const struct vmm_snapshot *snapshot, const struct test_gate *gate,
                      bool supervised, const char *const options[]) {
        char folder[PATH_SIZE], text[1024];
        const char *args[ARGS_MAX];
        struct vmm_process process;
        unsigned n = 0;
        int status;

        (void) snprintf(folder, sizeof folder, "--snapshot=%s", snapshot->dir);
        process_start(&process, (const char *const[]) { program_path(), "arguments", folder, NULL });
        status = process_wait(&process, text, sizeof text);
        cr_assert(status == 0, "mini-vmm arguments ended with status %d: %s", status, text);
        for (char *rest = text, *line; (line = strsep(&rest, "\n")) && *line && n < ARGS_MAX - 1;)
                args[n++] = line;
        if (gate)
                args[0] = test_gate_memory("ram", gate, "");
        (void) args_append(args, n, options);
        test_broker_start(ret, &(struct test_broker_options) { .supervised = supervised, .args = args });
}

/* ---- the verdict ---- */

static uint64_t json_number(const char *text, const char *key) {
        char quoted[64];
        const char *at;

        (void) snprintf(quoted, sizeof quoted, "\"%s\": ", key);
        at = strstr(text, quoted);
        return at ? strtoull(at + strlen(quoted), NULL, 10) : UINT64_MAX;
}

static void verdict_parse(struct vmm_verdict *verdict) {
        static const char format[] =
                "{\"vcpu\": %u, \"gpa\": %" SCNu64 ", \"expected\": \"0x%" SCNx64 "\", \"found\": \"0x%" SCNx64 "\"}";
        const char *at = verdict->text;

        verdict->pages = json_number(verdict->text, "pages");
        verdict->mismatches = json_number(verdict->text, "mismatches");
        verdict->pages_data = json_number(verdict->text, "pages_data");
        verdict->present_at_alive = json_number(verdict->text, "present_at_alive");
        verdict->present_at_verdict = json_number(verdict->text, "present_at_verdict");
        verdict->vcpus = json_number(verdict->text, "vcpus");
        verdict->faults_peer = json_number(verdict->text, "faults_peer");
        verdict->faults_linked = json_number(verdict->text, "faults_linked");
        while (verdict->n_first < ELEMENTS(verdict->first) && (at = strstr(at, "{\"vcpu\": "))) {
                struct vmm_mismatch *m = &verdict->first[verdict->n_first];

                /* The object of the whole begins with "vcpus". */
                cr_assert(sscanf(at, format, &m->vcpu, &m->gpa, &m->expected, &m->found) == 4, "%s", verdict->text);
                verdict->n_first++;
                at++;
        }
}

void vmm_restore_start(struct vmm_process *ret, const struct vmm_snapshot *snapshot, const struct test_broker *broker,
                       const char *const options[]) {
        char folder[PATH_SIZE], address[128] = "--eager";
        const char *argv[ARGS_MAX];
        unsigned n;

        (void) snprintf(folder, sizeof folder, "--snapshot=%s", snapshot->dir);
        if (broker)
                (void) snprintf(address, sizeof address, "--pagebroker=%s", broker->address);
        n = args_append(argv, 0, (const char *const[]) { program_path(), "restore", "--json", folder, address, NULL });
        (void) args_append(argv, n, options);
        process_start(ret, argv);
}

struct vmm_verdict vmm_restore_wait(struct vmm_process *process) {
        struct vmm_verdict verdict = { 0 };

        verdict.status = process_wait(process, verdict.text, sizeof verdict.text);
        verdict_parse(&verdict);
        return verdict;
}

struct vmm_verdict vmm_restore(const struct vmm_snapshot *snapshot, const struct test_broker *broker,
                               const char *const options[]) {
        struct vmm_process process;

        vmm_restore_start(&process, snapshot, broker, options);
        return vmm_restore_wait(&process);
}

void vmm_verdict_assert_good(const struct vmm_verdict *verdict) {
        cr_assert(verdict->status == 0, "mini-vmm restore ended with status %d: %s", verdict->status, verdict->text);
        cr_assert(verdict->mismatches == 0 && verdict->pages > 0 && verdict->pages != UINT64_MAX, "%s", verdict->text);
}
