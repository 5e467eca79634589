/* SPDX-License-Identifier: MIT */
#include "tests/integration/nbd/liar.h"

#include <criterion/criterion.h>
#include <endian.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/lib/process.h"

/* What of the NBD protocol is needed. */
#define OPTION_MAGIC 0x49484156454f5054ull
#define REPLY_MAGIC 0x3e889045565a9ull
#define REQUEST_MAGIC 0x25609513u
#define CHUNK_MAGIC 0x668e33efu
enum { OPT_GO = 7, OPT_STRUCTURED = 8, OPT_SET_META = 10 };
enum { REP_ACK = 1, REP_INFO = 3, REP_META = 4 };
enum { CMD_READ = 0, CMD_DISCONNECT = 2, CMD_BLOCK_STATUS = 7 };
enum { CHUNK_NONE = 0, CHUNK_DATA = 1, CHUNK_BLOCK_STATUS = 5 };

struct request {
        uint32_t magic;
        uint16_t flags, type;
        uint64_t cookie, offset;
        uint32_t length;
} __attribute__((packed));

struct liar_shared {
        atomic_int left;
        atomic_uint told;
};

static void put(int fd, const void *data, size_t size) {
        while (size > 0) {
                ssize_t n = send(fd, data, size, MSG_NOSIGNAL);

                if (n <= 0)
                        _exit(0);
                data = (const char *) data + n;
                size -= (size_t) n;
        }
}

static void get(int fd, void *data, size_t size) {
        while (size > 0) {
                ssize_t n = recv(fd, data, size, 0);

                if (n <= 0)
                        _exit(0);
                data = (char *) data + n;
                size -= (size_t) n;
        }
}

static void put16(int fd, uint16_t value) {
        put(fd, &(uint16_t) { htobe16(value) }, 2);
}

static void put32(int fd, uint32_t value) {
        put(fd, &(uint32_t) { htobe32(value) }, 4);
}

static void put64(int fd, uint64_t value) {
        put(fd, &(uint64_t) { htobe64(value) }, 8);
}

/* ---- handshake ---- */

static void reply_option(int fd, uint32_t option, uint32_t type, uint32_t length) {
        put64(fd, REPLY_MAGIC);
        put32(fd, option);
        put32(fd, type);
        put32(fd, length);
}

static void handshake(const struct liar *liar, int fd) {
        uint64_t head[2];
        char data[4096];
        uint32_t flags;

        put64(fd, 0x4e42444d41474943ull);
        put64(fd, OPTION_MAGIC);
        put16(fd, 3); /* fixed newstyle, no zeroes */
        get(fd, &flags, sizeof flags);
        for (;;) {
                uint32_t option, length;

                get(fd, head, sizeof head);
                option = be32toh((uint32_t) head[1]);
                length = be32toh((uint32_t) (head[1] >> 32));
                if (length > sizeof data)
                        _exit(0);
                get(fd, data, length);
                if (option == OPT_GO) {
                        reply_option(fd, option, REP_INFO, 12);
                        put16(fd, 0);
                        put64(fd, liar->image->spec.n_pages * TEST_PAGE);
                        put16(fd, 1 | 2); /* has flags, read-only: one connection */
                } else if (option == OPT_SET_META) {
                        reply_option(fd, option, REP_META, 4 + 15);
                        put32(fd, 1);
                        put(fd, "base:allocation", 15);
                }
                if (option == OPT_GO || option == OPT_SET_META || option == OPT_STRUCTURED)
                        reply_option(fd, option, REP_ACK, 0);
                else
                        reply_option(fd, option, 1u << 31 | 1, 0);
                if (option == OPT_GO)
                        return;
        }
}

/* ---- answers ---- */

static void chunk(int fd, uint16_t flags, uint16_t type, uint64_t cookie, uint32_t length) {
        put32(fd, CHUNK_MAGIC);
        put16(fd, flags);
        put16(fd, type);
        put(fd, &cookie, 8); /* as it came */
        put32(fd, length);
}

static void image_bytes(const struct liar *liar, uint64_t offset, uint32_t length, uint8_t *ret) {
        for (uint32_t i = 0; i < length; i += TEST_PAGE)
                test_image_fill(liar->image, (offset + i) / TEST_PAGE, ret + i);
}

static void answer(const struct liar *liar, int fd, const struct request *request, enum lie lie) {
        static uint8_t bytes[(256 << 10) + TEST_PAGE];
        uint64_t offset = be64toh(request->offset), cookie = request->cookie;
        uint32_t length = be32toh(request->length), says = length;

        image_bytes(liar, offset, length, bytes);
        if (lie == LIE_MAGIC) {
                put(fd, bytes, length);
                _exit(0);
        }
        if (lie == LIE_SHORT)
                says = length / 2;
        else if (lie == LIE_LONG)
                says = length + TEST_PAGE;
        else if (lie == LIE_OFFSET)
                offset += length;
        else if (lie == LIE_COOKIE)
                cookie = ~cookie;
        chunk(fd, 0, CHUNK_DATA, cookie, says + 8);
        put64(fd, offset);
        put(fd, bytes, lie == LIE_HANG_UP ? length / 2 : says);
        if (lie == LIE_HANG_UP)
                _exit(0);
        chunk(fd, 1, CHUNK_NONE, cookie, 0);
}

static void answer_status(const struct liar *liar, int fd, const struct request *request) {
        uint64_t offset = be64toh(request->offset), page = offset / TEST_PAGE, run = page;
        bool hole = test_image_is_hole(liar->image, page);
        uint32_t length;

        while (run < liar->image->spec.n_pages && test_image_is_hole(liar->image, run) == hole)
                run++;
        length = (uint32_t) (run * TEST_PAGE - offset);
        if (liar->lie == LIE_EXTENTS_LONG && run == liar->image->spec.n_pages)
                length = UINT32_MAX - 4095;
        chunk(fd, 1, CHUNK_BLOCK_STATUS, request->cookie, liar->lie == LIE_EXTENTS_ODD && !hole && length > 2000 ? 20 : 12);
        put32(fd, 1);
        if (liar->lie == LIE_EXTENTS_ODD && !hole && length > 2000) {
                /* The end of a run of data, told as if its last bytes were a hole of their own that reads as anything. */
                put32(fd, length - 2000);
                put32(fd, 0);
                put32(fd, 2000);
                put32(fd, 1); /* a hole, but not "reads as zeros" */
                return;
        }
        put32(fd, length);
        put32(fd, hole ? 3 : 0);
}

static enum lie lie_to(const struct liar *liar, const struct request *request) {
        uint64_t first = be64toh(request->offset) / TEST_PAGE, n = be32toh(request->length) / TEST_PAGE;
        int left = atomic_load(&liar->shared->left);

        if (liar->page - first >= n || left == 0)
                return LIE_NONE;
        if (left > 0)
                (void) atomic_fetch_sub(&liar->shared->left, 1);
        (void) atomic_fetch_add(&liar->shared->told, 1);
        return liar->lie;
}

static void serve(const struct liar *liar, int fd) {
        struct request request, held[4];
        unsigned n_held = 0;

        handshake(liar, fd);
        for (;;) {
                enum lie lie;

                get(fd, &request, sizeof request);
                if (be32toh(request.magic) != REQUEST_MAGIC || be16toh(request.type) == CMD_DISCONNECT)
                        _exit(0);
                if (be16toh(request.type) == CMD_BLOCK_STATUS) {
                        answer_status(liar, fd, &request);
                        continue;
                }
                lie = lie_to(liar, &request);
                if (liar->lie == LIE_BACKWARDS && be32toh(request.length) > TEST_PAGE) {
                        held[n_held++] = request;
                        for (; n_held == ELEMENTS(held); n_held = 0)
                                for (unsigned i = ELEMENTS(held); i-- > 0;)
                                        answer(liar, fd, &held[i], LIE_NONE);
                        continue;
                }
                if (lie == LIE_DEAF)
                        (void) pause();
                if (lie != LIE_SILENT)
                        answer(liar, fd, &request, lie);
        }
}

static int listen_and_serve(void *arg) {
        struct liar *liar = arg;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", liar->nbd.socket);
        CHILD_CHECK(fd >= 0 && bind(fd, (struct sockaddr *) &address, sizeof address) == 0 && listen(fd, 16) == 0);
        (void) signal(SIGCHLD, SIG_IGN);
        for (;;) {
                int client = accept(fd, NULL, NULL);

                if (client >= 0 && fork() == 0) {
                        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                        (void) close(fd);
                        serve(liar, client);
                }
                (void) fd_close(client);
        }
}

static bool listens(const struct liar *liar) {
        struct stat st;

        return stat(liar->nbd.socket, &st) == 0;
}

void liar_start(struct liar *liar) {
        liar->shared = mmap(NULL, sizeof *liar->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert(liar->shared != MAP_FAILED);
        atomic_store(&liar->shared->left, liar->times);
        test_nbd_prepare(&liar->nbd);
        liar->nbd.pid = test_child_start((uid_t) -1, listen_and_serve, liar);
        cr_assert(EVENTUALLY(listens(liar)));
}

void liar_stop(struct liar *liar) {
        test_nbd_stop(&liar->nbd);
        (void) munmap(liar->shared, sizeof *liar->shared);
}

unsigned liar_count(const struct liar *liar) {
        return atomic_load(&liar->shared->told);
}
