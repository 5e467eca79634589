/* SPDX-License-Identifier: MIT */
/*
 * An unmodified program: it knows nothing of Pagebroker and is linked to nothing of it. It does what its arguments say,
 * one after the other, to the memory behind a path, and compares what it sees with the image.
 *
 *   target PATH SIZE IMAGE ACTION...
 *
 * Exit status: 0 all right; 1 an action gave what it should not; 2 it could not be done.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE 4096u
#define EXIT_WRONG 1
#define EXIT_BROKEN 2

static struct {
        const char *path;
        size_t size;
        const char *image;
        int fd;
        char *memory;
} target;

static void broken(const char *what) {
        fprintf(stderr, "target: %s: %s\n", what, strerror(errno));
        exit(EXIT_BROKEN);
}

static void wrong(const char *what) {
        fprintf(stderr, "target: WRONG: %s\n", what);
        exit(EXIT_WRONG);
}

static void open_memory(int flags) {
        if (target.fd >= 0)
                return;
        target.fd = open(target.path, flags | O_CLOEXEC);
        if (target.fd < 0)
                broken(target.path);
}

static void map(int protection, int flags) {
        open_memory(O_RDWR);
        target.memory = mmap(NULL, target.size, protection, flags, target.fd, 0);
        if (target.memory == MAP_FAILED)
                broken("mmap");
}

static void must_be_refused(void *p, int error) {
        if (p != MAP_FAILED)
                wrong("the call was not refused");
        if (errno != error) {
                fprintf(stderr, "target: refused with '%s'\n", strerror(errno));
                wrong("refused for another reason");
        }
}

/* Every byte, by plain loads. */
static int memory_is_right(const char *memory, size_t offset, size_t size) {
        char page[PAGE];
        int image = open(target.image, O_RDONLY | O_CLOEXEC), right = 1;

        if (image < 0)
                broken(target.image);
        for (size_t at = 0; at < size; at += PAGE) {
                memset(page, 0, sizeof page);
                if (pread(image, page, PAGE, (off_t) (offset + at)) < 0)
                        broken("pread");
                if (memcmp(memory + at, page, PAGE) != 0) {
                        fprintf(stderr, "target: page %zu differs\n", (offset + at) / PAGE);
                        right = 0;
                        break;
                }
        }
        close(image);
        return right;
}

static void check(void) {
        if (!memory_is_right(target.memory, 0, target.size))
                wrong("the memory is not the image");
}

static void touch(size_t page) {
        if (!memory_is_right(target.memory + page * PAGE, page * PAGE, PAGE))
                wrong("the page is not the image's");
}

/* The kernel touches the memory, not we. */
static void check_by_system_calls(void) {
        char page[PAGE], *copy = malloc(target.size);
        int pipe_fds[2];

        if (!copy || pipe(pipe_fds) < 0)
                broken("pipe");
        for (size_t at = 0; at < target.size; at += PAGE) {
                if (write(pipe_fds[1], target.memory + at, PAGE) != PAGE || read(pipe_fds[0], page, PAGE) != PAGE)
                        broken("write from the memory");
                memcpy(copy + at, page, PAGE);
        }
        if (!memory_is_right(copy, 0, target.size))
                wrong("system calls saw something else than the image");
        free(copy);
}

static int run_child(int (*fn)(void)) {
        pid_t pid = fork();
        int status;

        if (pid < 0)
                broken("fork");
        if (pid == 0)
                _exit(fn());
        if (waitpid(pid, &status, 0) != pid)
                broken("waitpid");
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int child_check(void) {
        return memory_is_right(target.memory, 0, target.size) ? 0 : EXIT_WRONG;
}

static int child_fork_again(void) {
        return run_child(child_check);
}

/* A mapping that only the child makes. */
static int child_map(void) {
        char *p = mmap(NULL, target.size, PROT_READ | PROT_WRITE, MAP_SHARED, target.fd, 0);

        return p != MAP_FAILED && memory_is_right(p, 0, target.size) ? 0 : EXIT_WRONG;
}

static int child_nothing(void) {
        return 0;
}

static void expect_status(int status, int expected) {
        if (status == expected)
                return;
        fprintf(stderr, "target: the child ended with %d instead of %d\n", status, expected);
        wrong("the child's status");
}

/* Starts this program as a helper: it inherits the environment, LD_PRELOAD included. */
static int child_exec(void) {
        execl("/proc/self/exe", "helper", "-", "0", "-", "helper-has-nothing", NULL);
        return EXIT_BROKEN;
}

static void helper_has_nothing(void) {
        char path[64], link[256];
        ssize_t n;

        for (int fd = 0; fd < 1024; fd++) {
                snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
                n = readlink(path, link, sizeof link - 1);
                if (n < 0)
                        continue;
                link[n] = 0;
                if (strstr(link, "memfd:pagebroker") || strstr(link, "userfaultfd") || strstr(link, "socket")) {
                        fprintf(stderr, "target: the helper has %d: %s\n", fd, link);
                        wrong("a helper inherited what is not its own");
                }
        }
}

/* What a sandboxed device process does: from here on no new connection, no ioctl, no waiting by poll. */
static void enter_seccomp(void) {
        static const int forbidden[] = { SYS_ioctl, SYS_connect,     SYS_socket,  SYS_poll,
                                         SYS_ppoll, SYS_userfaultfd, SYS_readlink };
        struct sock_filter code[3 + 2 * sizeof forbidden / sizeof forbidden[0]];
        struct sock_fprog program = { .filter = code };
        unsigned n = 0;

        code[n++] = (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        for (unsigned i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++) {
                code[n++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned) forbidden[i], 0, 1);
                code[n++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
        }
        code[n++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        program.len = (unsigned short) n;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                broken("seccomp");
}

/* A hole in the middle, ordinary memory in its place: both halves stay lazy, the new part is zeros. */
static void replace_middle(void) {
        size_t quarter = target.size / 4;
        char *middle = target.memory + quarter, *p;

        if (munmap(middle, quarter) < 0)
                broken("munmap");
        p = mmap(middle, quarter, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (p == MAP_FAILED)
                broken("mmap");
        for (size_t i = 0; i < quarter; i++)
                if (p[i] != 0)
                        wrong("fresh memory is not zero");
        if (madvise(p, quarter, MADV_POPULATE_WRITE) < 0 || mlock(p, PAGE) < 0)
                broken("memory that is not the guest's any more is treated as if it were");
        if (!memory_is_right(target.memory, 0, quarter) ||
            !memory_is_right(middle + quarter, 2 * quarter, target.size - 2 * quarter))
                wrong("what is left is not the image");
}

/* Past libc, or past every mapping: nothing of ours sees it. */
static void look_past_the_library(void) {
        char page[PAGE];
        char *p = (char *) syscall(SYS_mmap, NULL, PAGE, PROT_READ, MAP_SHARED, target.fd, 0);

        if (p == MAP_FAILED)
                broken("mmap");
        if (pread(target.fd, page, PAGE, 0) != PAGE)
                broken("pread");
        if (memory_is_right(page, 0, PAGE) || memory_is_right(p, 0, PAGE))
                wrong("it is the image's after all: say so in the documents");
        for (size_t i = 0; i < PAGE; i++)
                if (page[i] != 0 || p[i] != 0)
                        wrong("neither the image's nor zeros");
        munmap(p, PAGE);
}

/* As a VMM does that reserves addresses first, and with an offset. */
static void map_fixed_upper_half(void) {
        size_t half = target.size / 2;
        char *p = mmap(NULL, target.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        open_memory(O_RDWR);
        if (p == MAP_FAILED ||
            mmap(p + half, half, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, target.fd, (off_t) half) == MAP_FAILED)
                broken("mmap");
        if (!memory_is_right(p + half, half, half))
                wrong("the upper half is not the image's");
}

/* As QEMU does after a memory error: one page, mapped anew over itself. */
static void map_a_page_again(void) {
        size_t half = target.size / 2;

        if (mmap(target.memory + half, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, target.fd, (off_t) half) ==
            MAP_FAILED)
                broken("mmap");
}

/* At more addresses than anybody keeps a table of. */
static void map_at_many_addresses(void) {
        char *p = mmap(NULL, 600 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        open_memory(O_RDWR);
        if (p == MAP_FAILED)
                broken("mmap");
        for (size_t i = 0; i < 600; i++) {
                char *at = p + i * PAGE;

                if (mmap(at, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, target.fd, 0) == MAP_FAILED)
                        broken("mmap");
                if (i % 2 ? munmap(at, PAGE) < 0
                          : mmap(at, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
                        broken("unmapping");
        }
}

static void remap(void) {
        void *p = mremap(target.memory, target.size, target.size / 2, 0);

        if (p != target.memory)
                broken("shrinking by mremap");
        must_be_refused(mremap(target.memory, target.size / 2, target.size, MREMAP_MAYMOVE), ENOMEM);
        target.size /= 2;
}

static void lower_fd_is_private(void) {
        target.fd = (int) syscall(SYS_openat, AT_FDCWD, target.path, O_RDONLY | O_CLOEXEC, 0);
        if (target.fd < 0)
                broken(target.path);
        must_be_refused(mmap(NULL, target.size, PROT_READ, MAP_SHARED, target.fd, 0), EACCES);
}

/* A daemon's habit. */
static void close_everything(void) {
        for (int fd = 3; fd < 1024; fd++)
                if (fd != target.fd)
                        close(fd);
}

static void kill_broker(const char *pid) {
        char path[64];

        if (kill(atoi(pid), SIGKILL) < 0)
                broken("kill");
        snprintf(path, sizeof path, "/proc/%s/fd", pid);
        /* Its descriptors are closed when it is a zombie: its fd folder is empty or unreadable then. */
        for (;;) {
                char stat[512] = "";
                snprintf(path, sizeof path, "/proc/%s/stat", pid);
                int fd = open(path, O_RDONLY | O_CLOEXEC);
                ssize_t n = fd >= 0 ? read(fd, stat, sizeof stat - 1) : -1;

                if (fd >= 0)
                        close(fd);
                if (n <= 0 || strstr(stat, ") Z "))
                        return;
                (void) poll(NULL, 0, 1);
        }
}

static void act(const char *action) {
        const char *argument = strchr(action, ':') ? strchr(action, ':') + 1 : "";

#define IS(name) (strcmp(action, name) == 0)
        if (IS("open"))
                open_memory(O_RDWR);
        else if (IS("map"))
                map(PROT_READ | PROT_WRITE, MAP_SHARED);
        else if (IS("map-readable"))
                map(PROT_READ, MAP_SHARED);
        else if (IS("map-populate"))
                map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE);
        else if (IS("map-locked"))
                map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_LOCKED);
        else if (IS("map-upper-half"))
                map_fixed_upper_half();
        else if (IS("map-is-refused")) {
                open_memory(O_RDWR);
                if (mmap(NULL, target.size, PROT_READ | PROT_WRITE, MAP_SHARED, target.fd, 0) != MAP_FAILED)
                        wrong("the mapping was not refused");
        } else if (IS("private-is-refused")) {
                open_memory(O_RDWR);
                must_be_refused(mmap(NULL, target.size, PROT_READ, MAP_PRIVATE, target.fd, 0), EOPNOTSUPP);
        } else if (IS("readonly-is-refused"))
                lower_fd_is_private();
        else if (IS("mlockall-current")) {
                if (mlockall(MCL_CURRENT) < 0)
                        broken("mlockall");
        } else if (IS("mlockall-future")) {
                if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
                        broken("mlockall");
        } else if (IS("mlock")) {
                if (mlock(target.memory, target.size) < 0)
                        broken("mlock");
        } else if (IS("populate")) {
                if (madvise(target.memory, target.size, MADV_POPULATE_WRITE) < 0)
                        broken("madvise");
        } else if (IS("dontfork")) {
                if (madvise(target.memory, target.size, MADV_DONTFORK) < 0)
                        broken("madvise");
        } else if (strncmp(action, "touch:", 6) == 0)
                touch((size_t) atoi(argument));
        else if (IS("check"))
                check();
        else if (IS("check-by-system-calls"))
                check_by_system_calls();
        else if (IS("fork-check"))
                expect_status(run_child(child_check), 0);
        else if (IS("fork-fork-check"))
                expect_status(run_child(child_fork_again), 0);
        else if (IS("fork-map-check"))
                expect_status(run_child(child_map), 0);
        else if (IS("fork-nothing"))
                expect_status(run_child(child_nothing), 0);
        else if (IS("fork-ends"))
                expect_status(run_child(child_nothing), 125);
        else if (IS("exec-helper"))
                expect_status(run_child(child_exec), 0);
        else if (IS("helper-has-nothing"))
                helper_has_nothing();
        else if (IS("seccomp"))
                enter_seccomp();
        else if (IS("replace-middle"))
                replace_middle();
        else if (IS("unmap")) {
                if (munmap(target.memory, target.size) < 0)
                        broken("munmap");
        } else if (IS("map-a-page-again"))
                map_a_page_again();
        else if (IS("map-at-many-addresses"))
                map_at_many_addresses();
        else if (IS("look-past-the-library"))
                look_past_the_library();
        else if (IS("remap"))
                remap();
        else if (IS("close-everything"))
                close_everything();
        else if (strncmp(action, "kill:", 5) == 0)
                kill_broker(argument);
        else {
                errno = EINVAL;
                broken(action);
        }
#undef IS
}

int main(int argc, char **argv) {
        if (argc < 4)
                return EXIT_BROKEN;
        target.path = argv[1];
        target.size = strtoull(argv[2], NULL, 10);
        target.image = argv[3];
        target.fd = -1;
        for (int i = 4; i < argc; i++)
                act(argv[i]);
        return 0;
}
