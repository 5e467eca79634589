/* SPDX-License-Identifier: MIT */
/* Descriptors that do not belong where they are sent. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "common/packet.h"
#include "tests/hostile/raw.h"
#include "tests/hostile/scene.h"
#include "tests/hostile/stuck.h"
#include "tests/lib/test.h"
#include "tests/lib/uffd.h"

static const struct pb_message_attach_peer attach = {
        .header = { .type = PB_MSG_ATTACH_PEER, .size = sizeof attach, .serial = 3 },
};

/* Others can still come in and be answered: the control thread does not hang. */
static void assert_control_works(struct scene *scene) {
        struct pb_message_stats_reply stats;
        struct raw raw;

        cr_assert(raw_open(&raw, scene->broker.address, PB_AS_OBSERVER) == 0);
        cr_assert(raw_stats(&raw, &stats) == 0);
        raw_close(&raw);
}

static void send_attach_and_expect_end(struct scene *scene, const int *fds, unsigned n_fds) {
        uint64_t begin = clock_now_us();
        struct raw raw;

        cr_assert(raw_open(&raw, scene->broker.address, PB_AS_VMM) == 0);
        cr_assert(raw_send(&raw, &attach, sizeof attach, fds, n_fds) == 0);
        cr_assert(raw_is_hung_up(&raw));
        assert_control_works(scene);
        cr_assert(clock_now_us() - begin < scene->delay_max_us);
        raw_close(&raw);
}

TEST(descriptors, other_kinds_than_a_userfaultfd_end_the_session) {
        int pipes[2], sockets[2];
        struct scene scene;

        require_uffd();
        SCENE_OPEN(&scene);
        cr_assert(pipe2(pipes, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
        int kinds[] = { open(scene.image.path, O_RDONLY | O_CLOEXEC),
                        pipes[0],
                        sockets[0],
                        memfd_create("[userfaultfd]", MFD_CLOEXEC),
                        eventfd(0, EFD_CLOEXEC),
                        open("/dev/userfaultfd", O_RDWR | O_CLOEXEC),
                        open("/", O_PATH | O_CLOEXEC) };

        for (unsigned i = 0; i < ELEMENTS(kinds); i++) {
                cr_assert(kinds[i] >= 0);
                send_attach_and_expect_end(&scene, &kinds[i], 1);
        }
        scene_assert_logged(&scene, "not a userfaultfd");
        for (unsigned i = 0; i < ELEMENTS(kinds); i++)
                (void) close(kinds[i]);
        (void) close(pipes[1]);
        (void) close(sockets[1]);
        scene_close(&scene);
}

TEST(descriptors, none_or_too_many_are_refused) {
        int uffds[PACKET_FDS_MAX];
        struct scene scene;
        struct raw raw;

        require_uffd();
        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_VMM) == 0);
        cr_assert_eq(raw_call(&raw, &attach, sizeof attach, -1, NULL), -EINVAL);
        raw_close(&raw);
        for (unsigned i = 0; i < ELEMENTS(uffds); i++)
                uffds[i] = test_uffd_open();
        send_attach_and_expect_end(&scene, uffds, 2);
        send_attach_and_expect_end(&scene, uffds, ELEMENTS(uffds));
        scene_assert_logged(&scene, "descriptors where none belong");
        for (unsigned i = 0; i < ELEMENTS(uffds); i++)
                (void) close(uffds[i]);
        scene_close(&scene);
}

/* Descriptors that are dangerous to close. */
struct toxic {
        int (*make)(struct toxic *toxic);
        bool drop; /* the receiver's is the last one */
        struct stuck stuck;
        int kept[64];
        unsigned n_kept;
};

static void toxic_keep(struct toxic *toxic, int fd) {
        cr_assert(fd >= 0 && toxic->n_kept < ELEMENTS(toxic->kept));
        toxic->kept[toxic->n_kept++] = fd;
}

static void toxic_done(struct toxic *toxic) {
        while (toxic->n_kept > 0)
                (void) close(toxic->kept[--toxic->n_kept]);
}

struct way {
        const void *message;
        size_t size;
        bool after_ready;
        unsigned n_fds;
};

/* While it is stopped the sender can drop its own descriptor, so that what is in the message is the last one. */
static void stop_broker(struct scene *scene) {
        cr_assert(kill(scene->broker.pid, SIGSTOP) == 0);
        cr_assert(EVENTUALLY(test_thread_state(scene->broker.pid, scene->broker.pid) == 'T'));
}

static void continue_broker(struct scene *scene) {
        cr_assert(kill(scene->broker.pid, SIGCONT) == 0);
}

static void send_toxic(struct scene *scene, struct toxic *toxic, const struct way *way) {
        struct raw raw = { .socket = -1 };
        int fds[4];

        for (unsigned i = 0; i < way->n_fds; i++)
                fds[i] = toxic->make(toxic);
        if (way->after_ready)
                cr_assert(raw_open(&raw, scene->broker.address, PB_AS_DEVICE) == 0);
        else
                raw.socket = raw_socket(scene->broker.address);
        stop_broker(scene);
        cr_assert(raw.socket >= 0 && raw_send(&raw, way->message, way->size, fds, way->n_fds) == 0);
        for (unsigned i = 0; i < way->n_fds; i++)
                if (toxic->drop)
                        (void) close(fds[i]);
                else
                        toxic_keep(toxic, fds[i]);
        continue_broker(scene);
        cr_assert(raw_is_hung_up(&raw));
        assert_control_works(scene);
        if (way->after_ready)
                raw_close(&raw);
        else
                (void) close(raw.socket);
}

/* Everywhere where a descriptor can come in, and behind a message that ends the session, never to be looked at. */
static void send_toxic_everywhere(struct scene *scene, struct toxic *toxic) {
        struct pb_message_hello hello = raw_hello(PB_AS_DEVICE);
        struct pb_message_plain stats = { .header = { .type = PB_MSG_STATS, .size = sizeof stats, .serial = 1 } };
        struct pb_message_attach_peer bad = attach;
        const struct way ways[] = {
                { &attach, sizeof attach, true, 1 },  { &attach, sizeof attach, true, 2 },
                { &bad, sizeof bad, true, 1 },        { &attach, sizeof attach - 8, true, 1 },
                { &stats, sizeof stats, true, 1 },    { "", 0, true, 1 },
                { &hello, sizeof hello, false, 1 },   { &hello, sizeof hello, false, 4 },
                { &attach, sizeof attach, false, 1 }, { "x", 1, false, 1 },
        };

        bad.header.size = 0;
        for (unsigned i = 0; i < ELEMENTS(ways); i++)
                send_toxic(scene, toxic, &ways[i]);
}

static int make_stuck(struct toxic *toxic) {
        return stuck_open(&toxic->stuck);
}

TEST(descriptors, file_whose_close_hangs_stops_nobody) {
        struct toxic toxic = { .make = make_stuck };
        struct scene scene;

        require_fuse();
        stuck_start(&toxic.stuck);
        SCENE_OPEN(&scene);
        send_toxic_everywhere(&scene, &toxic);
        scene_assert_served(&scene);
        stuck_stop(&toxic.stuck);
        toxic_done(&toxic);
        scene_close(&scene);
}

/* With data that its other end does not take: the last close() waits for an hour. */
static int make_lingering(struct toxic *toxic) {
        struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
        struct linger linger = { .l_onoff = 1, .l_linger = 3600 };
        static const char bytes[64 << 10];
        socklen_t size = sizeof addr;

        cr_assert(listener >= 0 && bind(listener, (struct sockaddr *) &addr, size) == 0 && listen(listener, 1) == 0);
        cr_assert(getsockname(listener, (struct sockaddr *) &addr, &size) == 0);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        cr_assert(fd >= 0 && connect(fd, (struct sockaddr *) &addr, size) == 0);
        toxic_keep(toxic, accept4(listener, NULL, NULL, SOCK_CLOEXEC));
        (void) close(listener);
        while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
                ;
        cr_assert(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
        return fd;
}

TEST(descriptors, socket_that_lingers_at_its_last_close_stops_nobody) {
        struct toxic toxic = { .make = make_lingering, .drop = true };
        struct scene scene;

        SCENE_OPEN(&scene);
        send_toxic_everywhere(&scene, &toxic);
        scene_assert_served(&scene);
        toxic_done(&toxic); /* the other ends go: reset, nothing lingers any more */
        scene_close(&scene);
}

TEST(descriptors, left_unread_behind_a_violation_stop_nobody) {
        struct toxic toxic = { .make = make_lingering, .drop = true };
        struct scene scene;
        struct raw raw;

        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        stop_broker(&scene);
        cr_assert(raw_send(&raw, "garbage", 7, NULL, 0) == 0);
        for (unsigned i = 0; i < 4; i++) {
                int fd = make_lingering(&toxic);

                cr_assert(raw_send(&raw, &attach, sizeof attach, &fd, 1) == 0 && close(fd) == 0);
        }
        continue_broker(&scene);
        cr_assert(raw_is_hung_up(&raw));
        assert_control_works(&scene);
        raw_close(&raw);
        toxic_done(&toxic);
        scene_close(&scene);
}

/* The broker never reads that socket. */
TEST(descriptors, sent_over_the_completion_socket_stop_nobody) {
        struct toxic toxic = { .make = make_lingering, .drop = true };
        struct scene scene;
        struct raw raw;
        int fd;

        SCENE_OPEN(&scene);
        cr_assert(raw_open(&raw, scene.broker.address, PB_AS_DEVICE) == 0);
        fd = make_lingering(&toxic);
        /* It may be refused; then ours is the last one, and must not linger. */
        if (packet_send(raw.completion, "x", 1, &fd, 1, MSG_DONTWAIT) < 0)
                cr_assert(setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger) { 0 }, sizeof(struct linger)) == 0);
        (void) close(fd);
        raw_close(&raw);
        assert_control_works(&scene);
        scene_assert_served(&scene);
        assert_control_works(&scene);
        toxic_done(&toxic);
        scene_close(&scene);
}
