/* SPDX-License-Identifier: MIT */
#include "blk.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "common/macro.h"
#include "device.h"
#include "iov.h"

static_assert(BLK_REQUESTS <= DISK_ENTRIES, "an entry for each request");

/* ---- the answer ---- */

static void request_free(struct blk_request *request) {
        request->state = BLK_FREE;
        LIST_INSERT_HEAD(&request->blk->free, request, entry);
}

/* No answer is possible: where it belongs is unknown or lost. */
static void request_break(struct blk_request *request, const char *reason) {
        struct virtqueue *queue = request->queue;

        request->blk->n_failed++;
        virtqueue_break(queue, reason);
        request_free(request);
        virtqueue_drop(queue);
}

static uint64_t status_gpa(const struct blk_request *request) {
        return request->chain.last.gpa + request->chain.last.len - 1;
}

/* The status byte's page is there. */
static void request_answer(struct blk_request *request, uint8_t status) {
        struct virtqueue *queue = request->queue;
        struct device *device = queue->device;
        uint8_t *byte = pb_translate(device->guest.client, status_gpa(request), 1);
        uint16_t head = request->head;
        uint32_t len = (uint32_t) min_u64(request->chain.writable_len, UINT32_MAX);

        /* Abandoned: the front-end may have given the request to somebody else already. */
        if (queue->state == VIRTQUEUE_RUNNING || queue->state == VIRTQUEUE_DRAINING) {
                __atomic_store_n(byte, status, __ATOMIC_RELAXED);
                if (device->dirty.on)
                        dirty_log_mark(&device->dirty, status_gpa(request), 1);
        }
        request->blk->n_failed += status != VIRTIO_BLK_S_OK;
        request_free(request);
        virtqueue_push(queue, head, len);
}

static void request_go_on(struct blk_request *request, int result);

static void request_wait(struct blk_request *request, enum blk_state state) {
        int r;

        request->state = state;
        r = guest_ensure(&request->queue->device->guest, &request->wait, request->ranges, request->n_ranges);
        if (r != 0)
                request_go_on(request, r);
}

static void request_log(struct blk_request *request, const char *what, const char *why) {
        if (log_limit_pass(&request->queue->device->log_limit, &(uint32_t) { 0 }))
                log_warning("queue %u: a request fails: %s: %s", request->queue->index, what, why);
}

static void request_log_pages(struct blk_request *request, const char *what, int error) {
        request_log(request, what, guest_explain(error));
}

/* ---- carrying out: header, written data and status byte are there ---- */

static int request_collect(struct blk_request *request, const struct segment *segments, unsigned n) {
        struct guest *guest = &request->queue->device->guest;

        request->n_iov = 0;
        for (unsigned i = 0; i < n; i++) {
                int r = guest_translate(guest, segments[i].gpa, segments[i].len, request->iov, &request->n_iov,
                                        ELEMENTS(request->iov));

                if (r < 0)
                        return r;
        }
        return 0;
}

static bool request_fits_disk(const struct blk_request *request, uint64_t sector, uint64_t len) {
        uint64_t sectors = request->queue->device->disk.size / BLK_BLOCK_SIZE;

        return len > 0 && len % BLK_BLOCK_SIZE == 0 && range_fits(sector, len / BLK_BLOCK_SIZE, sectors);
}

static void request_to_disk(struct blk_request *request, enum disk_op op, uint64_t len) {
        request->state = BLK_DISK;
        request->io.op = op;
        request->io.iov = request->iov;
        request->io.n_iov = request->n_iov;
        request->io.left = len;
        disk_start(&request->queue->device->disk, &request->io);
}

/* The buffers that the device fills: all writable bytes but the last. */
static void request_fill(struct blk_request *request, uint32_t intent) {
        const struct chain *chain = &request->chain;

        request->n_ranges = 0;
        for (unsigned i = 0; i < chain->n_writable; i++) {
                const struct segment *segment = &chain->segments[chain->n_readable + i];

                guest_range_add(request->ranges, &request->n_ranges, segment->gpa,
                                segment->len - (i + 1 == chain->n_writable), intent);
        }
        request_wait(request, BLK_FILL);
}

static void request_read(struct blk_request *request, uint64_t sector) {
        request->blk->n_reads++;
        /* Before the pages are asked for: PB_OVERWRITE turns what it spares the fetch of into zeros, so it is asked for
         * only where the disk will really fill the buffer. */
        if (!request_fits_disk(request, sector, request->chain.writable_len - 1)) {
                request_answer(request, VIRTIO_BLK_S_IOERR);
                return;
        }
        request->io.offset = sector * BLK_BLOCK_SIZE;
        request_fill(request, PB_OVERWRITE);
}

static void request_write(struct blk_request *request, uint64_t sector, uint64_t len) {
        struct device *device = request->queue->device;

        request->blk->n_writes++;
        if (device->disk.readonly || !request_fits_disk(request, sector, len)) {
                request_answer(request, VIRTIO_BLK_S_IOERR);
                return;
        }
        request->io.offset = sector * BLK_BLOCK_SIZE;
        /* A driver that cannot flush expects what is answered to be durable. */
        request_to_disk(request, device_has_feature(device, VIRTIO_BLK_F_FLUSH) ? DISK_WRITE : DISK_WRITE_THROUGH, len);
}

static void request_execute(struct blk_request *request) {
        const struct chain *chain = &request->chain;
        struct virtio_blk_outhdr header;
        int r;

        r = request_collect(request, chain->segments, chain->n_readable);
        if (r < 0) {
                request_log_pages(request, "its buffers", r);
                request_answer(request, VIRTIO_BLK_S_IOERR);
                return;
        }
        /* Read once; the guest may change its copy from now on. */
        if (iov_take(request->iov, &request->n_iov, &header, sizeof header) < sizeof header) {
                request_answer(request, VIRTIO_BLK_S_IOERR);
                return;
        }
        request->type = le32toh(header.type);
        switch (request->type) {
        case VIRTIO_BLK_T_IN:
                request_read(request, le64toh(header.sector));
                break;
        case VIRTIO_BLK_T_OUT:
                request_write(request, le64toh(header.sector), chain->readable_len - sizeof header);
                break;
        case VIRTIO_BLK_T_FLUSH:
                request->blk->n_flushes++;
                request_to_disk(request, DISK_FLUSH, 0);
                break;
        case VIRTIO_BLK_T_GET_ID:
                request->blk->n_ids++;
                /* Not PB_OVERWRITE: the buffer may be larger than an ID. */
                request_fill(request, PB_WRITE);
                break;
        default:
                request_answer(request, VIRTIO_BLK_S_UNSUPP);
        }
}

/* The buffers' pages are there. */
static void request_use_buffers(struct blk_request *request) {
        const struct chain *chain = &request->chain;
        uint64_t len = chain->writable_len - 1;
        int r = request_collect(request, &chain->segments[chain->n_readable], chain->n_writable);

        if (r < 0) {
                request_log_pages(request, "its buffers", r);
                request_answer(request, VIRTIO_BLK_S_IOERR);
                return;
        }
        iov_cut_last(request->iov, &request->n_iov); /* the status byte */
        if (request->type == VIRTIO_BLK_T_IN) {
                request_to_disk(request, DISK_READ, len);
                return;
        }
        (void) iov_put(request->iov, request->n_iov, request->blk->serial, min_u64(len, VIRTIO_BLK_ID_BYTES));
        request_answer(request, VIRTIO_BLK_S_OK);
}

void blk_on_disk(struct disk_io *io, int result) {
        struct blk_request *request = CONTAINER_OF(io, struct blk_request, io);
        struct device *device = request->queue->device;

        if (result < 0)
                request_log(request, "the disk", strerror(-result));
        if (request->type == VIRTIO_BLK_T_IN && device->dirty.on)
                for (unsigned i = 0; i < request->n_ranges; i++)
                        dirty_log_mark(&device->dirty, request->ranges[i].gpa, request->ranges[i].len);
        request_answer(request, result < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

/* ---- the chain ---- */

/* The whole chain is known. Asks at once for what is needed in any case: what the guest wrote, and the status byte. */
static void request_open(struct blk_request *request) {
        const struct chain *chain = &request->chain;

        if (chain->writable_len == 0) {
                request_break(request, "a request without a status byte");
                return;
        }
        request->n_ranges = 0;
        if (chain->too_long) {
                request->status = VIRTIO_BLK_S_IOERR;
                guest_range_add(request->ranges, &request->n_ranges, status_gpa(request), 1, PB_WRITE);
                request_wait(request, BLK_STATUS);
                return;
        }
        for (unsigned i = 0; i < chain->n_readable; i++)
                guest_range_add(request->ranges, &request->n_ranges, chain->segments[i].gpa, chain->segments[i].len,
                                PB_READ);
        guest_range_add(request->ranges, &request->n_ranges, status_gpa(request), 1, PB_WRITE);
        request_wait(request, BLK_OPEN);
}

/* The indirect table's pages are there. */
static void request_walk_table(struct blk_request *request) {
        struct segment table = request->chain.indirect;
        const struct vring_desc *desc = pb_translate(request->queue->device->guest.client, table.gpa, table.len);
        const char *reason = "an indirect table across two regions";

        request->chain.indirect = (struct segment) {};
        if (!desc || chain_walk(&request->chain, desc, table.len / sizeof *desc, 0, false, &reason) < 0)
                request_break(request, reason);
        else
                request_open(request);
}

static void request_go_on(struct blk_request *request, int result) {
        switch (request->state) {
        case BLK_TABLE:
                if (result < 0) {
                        request_log_pages(request, "its indirect table", result);
                        request_break(request, "an indirect table cannot be had");
                } else
                        request_walk_table(request);
                break;
        case BLK_OPEN:
                if (result >= 0) {
                        request_execute(request);
                        break;
                }
                request_log_pages(request, "what the guest wrote", result);
                request->status = VIRTIO_BLK_S_IOERR;
                /* Which of the pages failed does not matter as long as the answer can be written. */
                request->n_ranges = 0;
                guest_range_add(request->ranges, &request->n_ranges, status_gpa(request), 1, PB_WRITE);
                request_wait(request, BLK_STATUS);
                break;
        case BLK_FILL:
                if (result < 0) {
                        request_log_pages(request, "its buffers", result);
                        request_answer(request, VIRTIO_BLK_S_IOERR);
                } else
                        request_use_buffers(request);
                break;
        case BLK_STATUS:
                if (result < 0)
                        request_break(request, "the page of a status byte cannot be had");
                else
                        request_answer(request, request->status);
                break;
        default:
                assert(!"a request that waits for no page");
        }
}

void blk_on_pages(struct guest_wait *wait, int result) {
        request_go_on(CONTAINER_OF(wait, struct blk_request, wait), result);
}

void blk_begin(struct blk *blk, struct virtqueue *queue, uint16_t head) {
        struct blk_request *request = LIST_FIRST(&blk->free);
        bool indirect = device_has_feature(queue->device, VIRTIO_RING_F_INDIRECT_DESC);
        const char *reason;

        assert(request); /* one for each that the queues may have under way */
        LIST_REMOVE(request, entry);
        request->queue = queue;
        request->head = head;
        chain_init(&request->chain);
        if (chain_walk(&request->chain, queue->desc, queue->size, head, indirect, &reason) < 0) {
                request_break(request, reason);
                return;
        }
        if (request->chain.indirect.len == 0) {
                request_open(request);
                return;
        }
        request->n_ranges = 0;
        guest_range_add(request->ranges, &request->n_ranges, request->chain.indirect.gpa, request->chain.indirect.len,
                        PB_READ);
        request_wait(request, BLK_TABLE);
}
