/* SPDX-License-Identifier: MIT */
/* Locks of the kernel's that a client can hold on objects that it shares with the broker. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

/* Writes guest memory from memory that never comes: holds the inode's lock until it is killed. */
static int hold_inode_lock(void *arg) {
        struct scene *scene = arg;
        struct raw raw;
        char *never = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int uffd = test_uffd_open();

        CHILD_CHECK(raw_open(&raw, scene->broker.address, PB_AS_DEVICE) == 0);
        CHILD_CHECK(never != MAP_FAILED && uffd >= 0 && test_uffd_enable(uffd, 0) == 0);
        struct uffdio_register reg = { .range = { (uintptr_t) never, 4096 }, .mode = UFFDIO_REGISTER_MODE_MISSING };

        CHILD_CHECK(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0);
        (void) pwrite(raw.guest[0], never, 4096, 0);
        return 1;
}

static bool is_in_pwrite(pid_t pid) {
        return test_thread_syscall(pid, pid) == SYS_pwrite64 && strchr("SD", test_thread_state(pid, pid));
}

TEST(locks, inode_lock_held_for_ever_stops_discards_only_and_these_time_out) {
        struct raw_push discard = { .op = PB_SLOT_DISCARD,
                                    .n_ranges = 1,
                                    .ranges = { { .first_page = SCENE_LAST_PAGE, .n_pages = 1 } } };
        struct raw_push want = raw_want(9, 1);
        struct scene scene;
        struct raw vmm;
        pid_t pid;

        require_uffd();
        SCENE_OPEN(&scene, "--discard-timeout=1");
        cr_assert(raw_open(&vmm, scene.broker.address, PB_AS_VMM) == 0);
        pid = test_child_start((uid_t) -1, hold_inode_lock, &scene);
        cr_assert(EVENTUALLY(is_in_pwrite(pid)));
        /* A few of them, so that one that hangs is not the end of the others' deadlines. */
        for (uint32_t slot = 0; slot < 3; slot++)
                raw_submit(&vmm, slot, &discard);
        scene_assert_served(&scene);
        cr_assert_eq(raw_request(&vmm, 100, &want), 0);
        for (uint32_t slot = 0; slot < 3; slot++)
                cr_assert_eq(raw_wait_outcome(&vmm, slot), -ETIMEDOUT);
        scene_assert_served(&scene);
        cr_assert(is_in_pwrite(pid));
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        cr_assert_eq(raw_request(&vmm, 200, &discard), 0);
        for (unsigned i = 0; i < TEST_PAGE; i++)
                cr_assert_eq(vmm.memory[0][SCENE_LAST_PAGE * TEST_PAGE + i], 0);
        raw_close(&vmm);
        scene_close(&scene);
}

static int queue_flock(void *arg) {
        return flock(*(int *) arg, LOCK_EX) == 0;
}

TEST(locks, on_every_descriptor_that_a_client_got_stop_nobody) {
        struct raw_push discard = { .op = PB_SLOT_DISCARD,
                                    .n_ranges = 1,
                                    .ranges = { { .first_page = 0, .n_pages = 1, .memory = 1 } } };
        struct scene scene;
        struct raw holder, waiter, late;
        pid_t pids[6];

        SCENE_OPEN(&scene, "--memory=other,size=1M");
        cr_assert(raw_open(&holder, scene.broker.address, PB_AS_VMM) == 0);
        cr_assert(raw_open(&waiter, scene.broker.address, PB_AS_VMM) == 0);
        int held[] = {
                holder.guest[0], holder.map[0], holder.ring_fd, holder.state_fd, holder.guest[1], holder.map[1]
        };
        int queued[] = {
                waiter.guest[0], waiter.map[0], waiter.ring_fd, waiter.state_fd, waiter.guest[1], waiter.map[1]
        };

        for (unsigned i = 0; i < ELEMENTS(held); i++) {
                struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

                (void) flock(held[i], LOCK_EX | LOCK_NB);
                lock.l_type = (fcntl(held[i], F_GETFL) & O_ACCMODE) == O_RDONLY ? F_RDLCK : F_WRLCK;
                (void) fcntl(held[i], F_OFD_SETLK, &lock);
                lock.l_type = F_WRLCK;
                (void) fcntl(held[i], F_SETLK, &lock);
                (void) fcntl(held[i], F_SETLEASE, F_RDLCK);
                (void) fcntl(held[i], F_SETLEASE, F_WRLCK);
                pids[i] = test_child_start((uid_t) -1, queue_flock, &queued[i]);
        }
        scene_assert_served(&scene);
        cr_assert_eq(raw_request(&holder, 0, &discard), 0);
        cr_assert(raw_open(&late, scene.broker.address, PB_AS_VMM) == 0);
        cr_assert_eq(raw_request(&late, 0, &discard), 0);
        for (unsigned i = 0; i < ELEMENTS(pids); i++) {
                (void) kill(pids[i], SIGKILL);
                (void) test_child_wait(pids[i]);
        }
        raw_close(&holder);
        raw_close(&waiter);
        raw_close(&late);
        scene_close(&scene);
}
