/* SPDX-License-Identifier: MIT */
/* What the front-end sets: size, addresses, descriptors. All of it is checked here, before the rings are used. */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "device.h"

int virtqueue_set_size(struct virtqueue *queue, unsigned size) {
        if (queue->state != VIRTQUEUE_STOPPED)
                return -EBUSY;
        if (size < 2 || size > TABLE_MAX || (size & (size - 1)) != 0)
                return -EINVAL;
        queue->size = (uint16_t) size;
        return 0;
}

int virtqueue_set_base(struct virtqueue *queue, unsigned base) {
        if (queue->state != VIRTQUEUE_STOPPED)
                return -EBUSY;
        if (base > UINT16_MAX)
                return -EINVAL;
        queue->last_avail = (uint16_t) base;
        return 0;
}

int virtqueue_set_addresses(struct virtqueue *queue, uint64_t desc_gpa, uint64_t avail_gpa, uint64_t used_gpa,
                            bool log_used) {
        bool same = queue->has_addresses && queue->desc_gpa == desc_gpa && queue->avail_gpa == avail_gpa &&
                    queue->used_gpa == used_gpa;

        if (queue->state != VIRTQUEUE_STOPPED && !same)
                return -EBUSY;
        if (!is_aligned(desc_gpa, 16) || !is_aligned(avail_gpa, 2) || !is_aligned(used_gpa, 4))
                return -EINVAL;
        queue->desc_gpa = desc_gpa;
        queue->avail_gpa = avail_gpa;
        queue->used_gpa = used_gpa;
        queue->log_used = log_used;
        queue->has_addresses = true;
        return 0;
}

/* An eventfd whose sender cannot make us sleep on it by having left O_NONBLOCK out. (Clearing it later would stop
 * only the sender's own device.) */
static int eventfd_take(int *ret, int fd) {
        _cleanup_close_ int closing = fd;
        int r;

        if (fd >= 0) {
                if (fd_get_kind(fd) != FD_KIND_EVENTFD)
                        return -EPROTO;
                r = fd_set_nonblocking(fd, true);
                if (r < 0)
                        return r;
        }
        (void) fd_close(*ret);
        *ret = fd_take(&closing);
        return 0;
}

static int virtqueue_on_kick(sd_event_source *source UNUSED, int fd, uint32_t events UNUSED, void *userdata) {
        struct virtqueue *queue = userdata;
        eventfd_t count;

        /* Read before the ring is looked at: a kick after this one makes the descriptor readable again. */
        (void) eventfd_read(fd, &count);
        virtqueue_schedule(queue);
        return 0;
}

int virtqueue_set_kick(struct virtqueue *queue, int fd) {
        int r;

        queue->kick_source = sd_event_source_disable_unref(queue->kick_source);
        r = eventfd_take(&queue->kick, fd);
        if (r < 0 || fd < 0)
                return r;
        return sd_event_add_io(queue->device->event, &queue->kick_source, queue->kick, EPOLLIN, virtqueue_on_kick,
                               queue);
}

int virtqueue_set_call(struct virtqueue *queue, int fd) {
        int r = eventfd_take(&queue->call, fd);

        /* What was answered while there was no descriptor, or the previous one, would otherwise never be noticed; an
         * interrupt too many does no harm. */
        if (r == 0 && fd >= 0)
                (void) eventfd_write(fd, 1);
        return r;
}

int virtqueue_set_err(struct virtqueue *queue, int fd) {
        return eventfd_take(&queue->err, fd);
}

void virtqueue_enable(struct virtqueue *queue, bool on) {
        queue->enabled = on;
        if (on)
                virtqueue_schedule(queue);
}
