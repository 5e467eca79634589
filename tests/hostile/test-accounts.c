/* SPDX-License-Identifier: MIT */
/* What a user makes the broker hold beyond his connections: his share of it is used up, and nobody else's. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/hostile/stuck.h"
#include "tests/lib/test.h"

#define HOSTILE_UID TEST_OTHER_UID
#define HONEST_UID 1
/* One user alone gets half of the 512 places of descriptors that hang in close(), and of the 512 userfaultfds that devices
 * may have. */
#define SHARE 256u

struct user {
        char address[96];
        const struct pb_message_header *message; /* what the descriptor is sent with */
        bool says_hello_first;
        const struct stuck *stuck;
        uint32_t n; /* rounds that succeeded */
        int error;  /* of the one that did not */
        char text[PB_TEXT_SIZE];
        uint32_t done;
};

static const struct pb_message_attach_peer attach = {
        .header = { .type = PB_MSG_ATTACH_PEER, .size = sizeof attach, .serial = 3 },
};

static struct user *user_new(const struct scene *scene) {
        struct user *user = mmap(NULL, sizeof *user, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        cr_assert(user != MAP_FAILED);
        memcpy(user->address, scene->broker.address, sizeof user->address);
        return user;
}

/* ---- descriptors that hang in close() ---- */

/* Far more often than there are places. */
static int send_hanging_descriptors(void *arg) {
        struct user *user = arg;
        /* Here: with a copy of it, whoever else ends would hang in its end. */
        int fd = open(user->stuck->path, O_RDWR | O_CLOEXEC);

        CHILD_CHECK(fd >= 0);
        for (unsigned i = 0; i < 3 * SHARE; i++) {
                struct raw raw = { .socket = -1 };

                if (user->says_hello_first && raw_open(&raw, user->address, PB_AS_DEVICE) < 0)
                        continue;
                if (!user->says_hello_first)
                        raw.socket = raw_socket(user->address);
                if (raw.socket >= 0 && raw_send(&raw, user->message, user->message->size, &fd, 1) == 0)
                        (void) raw_is_hung_up(&raw);
                if (user->says_hello_first)
                        raw_close(&raw);
                else if (raw.socket >= 0)
                        (void) close(raw.socket);
        }
        __atomic_store_n(&user->done, 1, __ATOMIC_RELEASE);
        return pause();
}

/* Comes in, and has a descriptor of his taken. */
static int come_in(void *arg) {
        struct user *user = arg;
        struct raw raw;
        int uffd;

        CHILD_CHECK(raw_open(&raw, user->address, PB_AS_DEVICE) == 0);
        uffd = ioctl(raw.uffd_device, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK);
        CHILD_CHECK(uffd >= 0);
        user->error = raw_attach(&raw, uffd, NULL);
        memcpy(user->text, raw.text, sizeof user->text);
        (void) close(uffd);
        raw_close(&raw);
        return 0;
}

static void assert_comes_in(const struct scene *scene, uid_t uid) {
        struct user *user = user_new(scene);

        cr_assert_eq(test_run_as(uid, come_in, user), 0);
        cr_assert_eq(user->error, 0, "uid %u: %s", (unsigned) uid, user->text);
        (void) munmap(user, sizeof *user);
}

static void fill_share_with_closes(struct scene *scene, const struct pb_message_header *message, bool says_hello_first) {
        struct user *hostile;
        struct stuck stuck;
        uint32_t held;
        pid_t pid;

        hostile = user_new(scene);
        stuck_start(&stuck);
        hostile->stuck = &stuck;
        hostile->message = message;
        hostile->says_hello_first = says_hello_first;
        pid = test_child_start(HOSTILE_UID, send_hanging_descriptors, hostile);
        cr_assert(EVENTUALLY(__atomic_load_n(&hostile->done, __ATOMIC_ACQUIRE)));
        held = __atomic_load_n(stuck.held, __ATOMIC_ACQUIRE);
        /* The close of a connection's socket needs a place for a moment: it can be a few less. */
        cr_assert(held > SHARE / 2 && held <= SHARE, "%u hang", held);
        scene_assert_logged(scene, "hang in close()");
        assert_comes_in(scene, HONEST_UID);
        assert_comes_in(scene, 0);
        scene_assert_served(scene);
        stuck_stop(&stuck);
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        (void) munmap(hostile, sizeof *hostile);
        /* His places come back. */
        cr_assert(EVENTUALLY(test_descriptors_count(scene->broker.pid) <= scene->n_descriptors));
}

TEST(accounts, hanging_closes_of_one_user_keep_out_nobody_else) {
        struct scene scene;

        require_fuse();
        require_uffd();
        require_other_uid();
        SCENE_OPEN(&scene, "--allow=device:0", "--allow=device:1", "--allow=device:65534", "--allow=vmm:0");
        fill_share_with_closes(&scene, &attach.header, true);
        assert_comes_in(&scene, HOSTILE_UID);
        scene_close(&scene);
}

TEST(accounts, hanging_closes_of_strangers_keep_out_nobody_who_is_allowed) {
        struct pb_message_hello hello = raw_hello(PB_AS_DEVICE);
        struct scene scene;

        require_fuse();
        require_uffd();
        require_other_uid();
        SCENE_OPEN(&scene, "--allow=device:0", "--allow=device:1", "--allow=vmm:0");
        fill_share_with_closes(&scene, &hello.header, false);
        scene_close(&scene);
}

/* ---- sockets of who is refused ---- */

/* As many can hang in all. */
#define CLOSES_MAX 1024u

/* A TCP socket with bytes that its other end, which is kept, does not take: the last close() waits for an hour. */
static int lingering_new(int listener, const struct sockaddr_in *addr, int *ret_other) {
        struct linger linger = { .l_onoff = 1, .l_linger = 3600 };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        static const char bytes[4096];

        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int) { 1 }, sizeof(int)) < 0 ||
            connect(fd, (const struct sockaddr *) addr, sizeof *addr) < 0)
                return -1;
        *ret_other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
                ;
        return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) < 0 ? -1 : fd;
}

static void *close_one(void *arg) {
        (void) close((int) (intptr_t) arg);
        return NULL;
}

/* The broker may have closed its copy already, between our send() and now: then ours is the last one, and lingers. */
static int close_aside(int fd) {
        pthread_t thread;
        int r = pthread_create(&thread, NULL, close_one, (void *) (intptr_t) fd);

        return r != 0 ? -r : -pthread_detach(thread);
}

/* Puts one into each connection, most of which are refused; in the end connect() waits, when nobody is let in any more. */
static int leave_lingering_sockets(void *arg) {
        struct user *user = arg;
        struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct rlimit limit;
        socklen_t size = sizeof addr;

        /* The other ends are kept. */
        CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        limit.rlim_cur = limit.rlim_max;
        CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        CHILD_CHECK(listener >= 0 && setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &(int) { 1 }, sizeof(int)) == 0);
        CHILD_CHECK(bind(listener, (struct sockaddr *) &addr, size) == 0 && listen(listener, 16) == 0);
        CHILD_CHECK(getsockname(listener, (struct sockaddr *) &addr, &size) == 0);
        for (;;) {
                int other = -1, fd = lingering_new(listener, &addr, &other);
                struct raw raw = { .socket = raw_socket(user->address) };

                CHILD_CHECK(raw.socket >= 0 && fd >= 0 && other >= 0);
                /* Hung up on already: ours is the last one, and must not linger. */
                if (raw_send(&raw, "x", 1, &fd, 1) < 0) {
                        (void) setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger) { 0 }, sizeof(struct linger));
                        (void) close(other);
                }
                CHILD_CHECK(close_aside(fd) == 0);
                (void) close(raw.socket);
        }
}

TEST(accounts, more_hanging_sockets_than_can_be_closed_pause_accepting_and_harm_nobody_inside) {
        struct user *hostile;
        struct scene scene;
        int64_t n_threads;
        pid_t pid;

        require_uffd();
        require_other_uid();
        SCENE_OPEN(&scene, "--allow=device:0", "--allow=device:1", "--allow=vmm:0");
        hostile = user_new(&scene);
        pid = test_child_start(HOSTILE_UID, leave_lingering_sockets, hostile);
        scene_assert_logged(&scene, "nobody new is let in until some do not");
        n_threads = test_process_kib(scene.broker.pid, "Threads");
        cr_assert(n_threads >= CLOSES_MAX && n_threads < CLOSES_MAX + 128, "%lld threads", (long long) n_threads);
        scene_assert_served(&scene);
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        (void) munmap(hostile, sizeof *hostile);
        /* The other ends have gone: nothing lingers any more. */
        cr_assert(EVENTUALLY(test_process_kib(scene.broker.pid, "Threads") < SHARE));
        cr_assert(EVENTUALLY(test_descriptors_count(scene.broker.pid) <= scene.n_descriptors));
        assert_comes_in(&scene, HONEST_UID);
        scene_close(&scene);
}

/* ---- userfaultfds ---- */

/* Over one connection after the other, until none is taken any more. */
static int attach_all(void *arg) {
        struct user *user = arg;

        while (user->error == 0) {
                unsigned before = user->n;
                struct raw raw;

                CHILD_CHECK(raw_open(&raw, user->address, PB_AS_DEVICE) == 0);
                for (int r = 0; r == 0;) {
                        int uffd = ioctl(raw.uffd_device, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK);

                        CHILD_CHECK(uffd >= 0);
                        r = raw_attach(&raw, uffd, NULL);
                        (void) close(uffd);
                        user->n += r == 0;
                        if (r < 0 && user->n == before)
                                user->error = r;
                }
                memcpy(user->text, raw.text, sizeof user->text);
                raw_close(&raw);
        }
        __atomic_store_n(&user->done, 1, __ATOMIC_RELEASE);
        return pause();
}

TEST(accounts, userfaultfds_of_one_user_leave_as_many_places_for_others) {
        struct user *hostile;
        struct scene scene;
        pid_t pid;

        require_uffd();
        require_other_uid();
        SCENE_OPEN(&scene, "--allow=device:0", "--allow=device:1", "--allow=device:65534", "--allow=vmm:0");
        hostile = user_new(&scene);
        pid = test_child_start(HOSTILE_UID, attach_all, hostile);
        cr_assert(EVENTUALLY(__atomic_load_n(&hostile->done, __ATOMIC_ACQUIRE)));
        cr_assert_eq(hostile->error, -ENOSPC);
        cr_assert(strstr(hostile->text, "of this user"), "%s", hostile->text);
        cr_assert_eq(hostile->n, SHARE);
        assert_comes_in(&scene, HONEST_UID);
        assert_comes_in(&scene, 0);
        scene_assert_served(&scene);
        (void) kill(pid, SIGKILL);
        (void) test_child_wait(pid);
        (void) munmap(hostile, sizeof *hostile);
        cr_assert(EVENTUALLY(test_descriptors_count(scene.broker.pid) <= scene.n_descriptors));
        assert_comes_in(&scene, HOSTILE_UID);
        scene_close(&scene);
}
