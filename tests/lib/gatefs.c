/* SPDX-License-Identifier: MIT */
/*
 * gatefs IMAGE MOUNTPOINT: a FUSE file system with one file for tests, see gate.h. Orders come over descriptor 3;
 * its end is the end of this program. One thread: a held read is a request without an answer yet.
 */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "tests/lib/gate-protocol.h"

#define FILE_INODE 2
#define RULES_MAX 256
#define READS_MAX (1u << 20)

struct rule {
        struct gate_order order;
        uint32_t seen;
        bool active;
};

struct gate_read {
        uint64_t offset;
        uint64_t length;
        fuse_req_t request; /* set while held */
        int error;
        bool answered;
        bool cut;
        uint32_t cut_bytes;
        uint64_t lie_offset; /* what to invert */
        uint64_t lie_length;
};

static struct {
        int image;
        uint64_t size;
        time_t mtime;
        struct rule rules[RULES_MAX];
        struct gate_read *reads;
        unsigned n_reads;
        struct gate_order waiting; /* a GATE_WAIT without its answer */
        bool is_waiting;
} gate;

static bool meets(uint64_t offset, uint64_t length, uint64_t offset2, uint64_t length2) {
        return offset2 <= offset ? length2 > offset - offset2 : length > offset2 - offset;
}

/* ---- reads ---- */

/* Inverts the part of the range that lies in `buf`, the bytes from `offset` on. */
static void invert(const struct gate_read *read, unsigned char *buf, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (range_fits(read->offset + i - read->lie_offset, 1, read->lie_length))
                        buf[i] ^= 0xff;
}

static void read_answer(struct gate_read *read, fuse_req_t request) {
        _cleanup_free_ unsigned char *buf = malloc(read->length ?: 1);
        size_t size = read->cut ? min_u64(read->cut_bytes, read->length) : read->length;
        ssize_t n;

        read->request = NULL;
        read->answered = true;
        n = buf && !read->error ? pread(gate.image, buf, size, (off_t) read->offset) : -1;
        if (n < 0) {
                (void) fuse_reply_err(request, read->error ?: EIO);
                return;
        }
        if (read->lie_length)
                invert(read, buf, (size_t) n);
        (void) fuse_reply_buf(request, (const char *) buf, (size_t) n);
}

/* Applies the rules to a read that has arrived. Returns whether it is held. */
static bool read_judge(struct gate_read *read) {
        bool held = false;

        for (unsigned i = 0; i < RULES_MAX; i++) {
                struct rule *rule = &gate.rules[i];
                const struct gate_order *order = &rule->order;

                if (!rule->active || !meets(read->offset, read->length, order->offset, order->length))
                        continue;
                rule->seen++;
                if (rule->seen <= order->skip || (order->times && rule->seen > order->skip + order->times))
                        continue;
                switch (order->what) {
                case GATE_HOLD:
                        held = true;
                        break;
                case GATE_FAIL:
                        read->error = (int) order->value;
                        break;
                case GATE_CUT:
                        read->cut = true;
                        read->cut_bytes = order->value;
                        break;
                default:
                        read->lie_offset = order->offset;
                        read->lie_length = order->length;
                }
        }
        return held;
}

static uint64_t count(const struct gate_order *order) {
        uint64_t n = 0;

        for (unsigned i = 0; i < gate.n_reads; i++) {
                const struct gate_read *read = &gate.reads[i];

                if (!meets(read->offset, read->length, order->offset, order->length))
                        continue;
                n += order->value == GATE_ARRIVED || (order->value == GATE_ANSWERED && read->answered) ||
                     (order->value == GATE_HELD && read->request);
        }
        return n;
}

static void answer(uint64_t value) {
        (void) send(GATE_SOCKET_FD, &value, sizeof value, MSG_NOSIGNAL);
}

static void wait_check(void) {
        if (!gate.is_waiting || count(&gate.waiting) < gate.waiting.n)
                return;
        gate.is_waiting = false;
        answer(0);
}

static void gate_on_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *info) {
        struct gate_read *read;

        if (inode != FILE_INODE || gate.n_reads == READS_MAX) {
                (void) fuse_reply_err(request, EIO);
                return;
        }
        read = &gate.reads[gate.n_reads++];
        *read = (struct gate_read) { .offset = (uint64_t) offset, .length = size };
        if (read_judge(read))
                read->request = request;
        else
                read_answer(read, request);
        wait_check();
}

/* ---- orders ---- */

static void release(uint64_t offset, uint64_t length, bool keep_rules) {
        for (unsigned i = 0; i < RULES_MAX && !keep_rules; i++)
                if (gate.rules[i].active && gate.rules[i].order.what == GATE_HOLD &&
                    meets(offset, length, gate.rules[i].order.offset, gate.rules[i].order.length))
                        gate.rules[i].active = false;
        for (unsigned i = 0; i < gate.n_reads; i++)
                if (gate.reads[i].request && meets(offset, length, gate.reads[i].offset, gate.reads[i].length))
                        read_answer(&gate.reads[i], gate.reads[i].request);
}

static uint64_t rule_add(const struct gate_order *order) {
        for (unsigned i = 0; i < RULES_MAX; i++)
                if (!gate.rules[i].active) {
                        gate.rules[i] = (struct rule) { .order = *order, .active = true };
                        return 0;
                }
        return ENOSPC;
}

/* False at the end. */
static bool order_take(void) {
        struct gate_order order;
        uint64_t value = 0;

        if (recv(GATE_SOCKET_FD, &order, sizeof order, 0) != sizeof order)
                return false;
        switch (order.what) {
        case GATE_HOLD:
        case GATE_FAIL:
        case GATE_CUT:
        case GATE_LIE:
                value = rule_add(&order);
                break;
        case GATE_OPEN:
                for (unsigned i = 0; i < RULES_MAX; i++)
                        gate.rules[i].active = false;
                release(0, UINT64_MAX, true);
                break;
        case GATE_RELEASE:
                release(order.offset, order.length, order.value);
                break;
        case GATE_TOUCH:
                gate.mtime++;
                break;
        case GATE_RESIZE:
                gate.size = order.n;
                break;
        case GATE_COUNT:
                value = count(&order);
                break;
        case GATE_WAIT:
                gate.waiting = order;
                gate.is_waiting = true;
                wait_check();
                return true;
        }
        answer(value);
        return true;
}

/* ---- the file system ---- */

static bool stat_inode(fuse_ino_t inode, struct stat *ret) {
        *ret = (struct stat) { .st_ino = inode, .st_nlink = 1, .st_mtime = gate.mtime };
        if (inode == FUSE_ROOT_ID)
                ret->st_mode = S_IFDIR | 0755;
        else if (inode == FILE_INODE) {
                ret->st_mode = S_IFREG | 0644;
                ret->st_size = (off_t) gate.size;
                ret->st_blocks = (blkcnt_t) (gate.size / 512);
        } else
                return false;
        return true;
}

static void gate_on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info) {
        struct stat st;

        if (stat_inode(inode, &st))
                (void) fuse_reply_attr(request, &st, 0);
        else
                (void) fuse_reply_err(request, ENOENT);
}

static void gate_on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
        struct fuse_entry_param entry = { .ino = FILE_INODE, .generation = 1 };

        if (parent != FUSE_ROOT_ID || strcmp(name, GATE_FILE) != 0 || !stat_inode(FILE_INODE, &entry.attr))
                (void) fuse_reply_err(request, ENOENT);
        else
                (void) fuse_reply_entry(request, &entry);
}

static void gate_on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info) {
        /* Page cache would ask for more than the test did, and answer for us. */
        info->direct_io = 1;
        (void) fuse_reply_open(request, info);
}

static void gate_on_lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence, struct fuse_file_info *info) {
        off_t at = lseek(gate.image, offset, whence);

        if (at < 0)
                (void) fuse_reply_err(request, errno);
        else
                (void) fuse_reply_lseek(request, at);
}

static const struct fuse_lowlevel_ops operations = {
        .lookup = gate_on_lookup,
        .getattr = gate_on_getattr,
        .open = gate_on_open,
        .read = gate_on_read,
        .lseek = gate_on_lseek,
};

static void gate_loop(struct fuse_session *session) {
        struct fuse_buf buf = { 0 };
        struct pollfd p[2] = { { .fd = fuse_session_fd(session), .events = POLLIN },
                               { .fd = GATE_SOCKET_FD, .events = POLLIN } };

        while (!fuse_session_exited(session)) {
                int n;

                if (poll(p, 2, -1) < 0)
                        continue;
                if (p[1].revents && !order_take())
                        break;
                if (!p[0].revents)
                        continue;
                n = fuse_session_receive_buf(session, &buf);
                if (n == -EINTR || n == -EAGAIN)
                        continue;
                if (n <= 0)
                        break;
                fuse_session_process_buf(session, &buf);
        }
        for (unsigned i = 0; i < gate.n_reads; i++)
                if (gate.reads[i].request)
                        (void) fuse_reply_err(gate.reads[i].request, EIO);
        free(buf.mem);
}

int main(int argc, char *argv[]) {
        const char *options[] = { "gatefs", "-o", "allow_other,fsname=gatefs" };
        struct fuse_args args = FUSE_ARGS_INIT(ELEMENTS(options), (char **) (void *) options);
        struct fuse_session *session;
        struct stat st;

        if (argc != 3) {
                fprintf(stderr, "usage: gatefs IMAGE MOUNTPOINT, with a control socket as descriptor 3\n");
                return 2;
        }
        gate.image = open(argv[1], O_RDONLY | O_CLOEXEC);
        gate.reads = calloc(READS_MAX, sizeof *gate.reads);
        if (gate.image < 0 || fstat(gate.image, &st) < 0 || !gate.reads) {
                perror(argv[1]);
                return 1;
        }
        gate.size = (uint64_t) st.st_size;
        gate.mtime = st.st_mtime;
        session = fuse_session_new(&args, &operations, sizeof operations, NULL);
        if (!session || fuse_session_mount(session, argv[2]) < 0)
                return 1;
        answer(0);
        gate_loop(session);
        fuse_session_unmount(session);
        fuse_session_destroy(session);
        fuse_opt_free_args(&args);
        free(gate.reads);
        return 0;
}
