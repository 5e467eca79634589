/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "common/log.h"
#include "common/macro.h"

#define REAP_BATCH 32u

static int guest_submit(struct guest *guest, struct guest_wait *wait) {
        return pb_submit(guest->client, wait->ranges, wait->n_ranges, (uintptr_t) wait);
}

int guest_ensure(struct guest *guest, struct guest_wait *wait, const struct pb_range *ranges, unsigned n) {
        int r = -EAGAIN;

        wait->ranges = ranges;
        wait->n_ranges = n;
        guest->ensures++;
        /* Behind those that wait for their turn, or a large one would never get the slots that it needs. */
        if (TAILQ_EMPTY(&guest->backlog))
                r = guest_submit(guest, wait);
        if (r == -EAGAIN) {
                TAILQ_INSERT_TAIL(&guest->backlog, wait, entry);
                r = 0;
        }
        guest->waited += r == 0;
        return r;
}

/* Completions have freed slots. As long as the backlog is not empty something is under way, so this is called again. */
static void guest_retry(struct guest *guest) {
        struct guest_wait *wait;

        while ((wait = TAILQ_FIRST(&guest->backlog))) {
                int r = guest_submit(guest, wait);

                if (r == -EAGAIN)
                        return;
                TAILQ_REMOVE(&guest->backlog, wait, entry);
                if (r != 0)
                        wait->done(wait, r);
        }
}

static void guest_complete(const struct pb_completion *completion) {
        struct guest_wait *wait = (struct guest_wait *) (uintptr_t) completion->cookie;

        wait->done(wait, completion->result);
}

static int guest_on_readable(sd_event_source *source UNUSED, int fd UNUSED, uint32_t events UNUSED, void *userdata) {
        struct pb_completion completions[REAP_BATCH];
        struct guest *guest = userdata;
        int n;

        while ((n = pb_reap(guest->client, completions, REAP_BATCH)) > 0)
                for (int i = 0; i < n; i++)
                        guest_complete(&completions[i]);
        if (n < 0) {
                /* Absent pages will not come any more, and zeros must not be served instead: end, so that the VMM
                 * notices and the supervisor decides. */
                log_error("the page broker is gone (%s): exiting", strerror(-n));
                return sd_event_exit(guest->event, n);
        }
        guest_retry(guest);
        return 0;
}

int guest_open(struct guest *guest, sd_event *event, const char *address, unsigned reconnect_s) {
        struct pb_options options = {
                .size = sizeof options,
                .role = PB_ROLE_DEVICE,
                .name = "vhost-user-blk",
                .reconnect_us = reconnect_s > 0 ? reconnect_s * INT64_C(1000000) : -1,
        };
        int r;

        TAILQ_INIT(&guest->backlog);
        guest->event = event;
        r = pb_connect(&guest->client, address, &options);
        if (r < 0)
                return r;
        while (guest->n_regions < GUEST_REGIONS_MAX) {
                r = pb_get_region(guest->client, guest->n_regions, &guest->regions[guest->n_regions]);
                if (r == -ENOENT)
                        break;
                if (r < 0)
                        return r;
                guest->n_regions++;
        }
        return sd_event_add_io(event, &guest->source, pb_get_fd(guest->client), EPOLLIN, guest_on_readable, guest);
}

void guest_close(struct guest *guest) {
        guest->source = sd_event_source_disable_unref(guest->source);
        guest->client = pb_disconnect(guest->client);
}

const char *guest_explain(int error) {
        /* pb_explain() would know more, but only of calls that failed at once, and may ask the broker and wait. */
        return error == -EIO ? "the page broker could not fetch a page (its log says why)" : strerror(-error);
}

static const struct pb_region *region_find(const struct guest *guest, uint64_t gpa) {
        for (unsigned i = 0; i < guest->n_regions; i++)
                if (gpa - guest->regions[i].gpa < guest->regions[i].size)
                        return &guest->regions[i];
        return NULL;
}

static int refuse_unknown(uint64_t gpa) {
        log_error("the VMM has memory at guest address 0x%llx that the page broker does not know: "
                  "give the broker a --region for it",
                  (unsigned long long) gpa);
        return -ESTALE;
}

static int refuse_foreign(uint64_t gpa) {
        log_error("the VMM's memory at guest address 0x%llx is not the page broker's: "
                  "start the VMM with the broker's memory (pagebroker-run does), and with the same layout",
                  (unsigned long long) gpa);
        return -ESTALE;
}

/* Is [gpa, gpa + size) of the front-end the same bytes of the same file as the broker's? Everything else about the
 * descriptor does not matter: it is closed, never mapped. */
static int mapping_check(const struct guest *guest, const struct guest_mapping *mapping, int fd) {
        struct stat theirs, ours;

        if (fstat(fd, &theirs) < 0)
                return -errno;
        for (uint64_t done = 0; done < mapping->size;) {
                uint64_t gpa = mapping->gpa + done;
                const struct pb_region *region = region_find(guest, gpa);

                if (!region)
                        return refuse_unknown(gpa);
                if (fstat(region->fd, &ours) < 0)
                        return -errno;
                if (ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino ||
                    region->offset + (gpa - region->gpa) != mapping->offset + done)
                        return refuse_foreign(gpa);
                done += min_u64(mapping->size - done, region->size - (gpa - region->gpa));
        }
        return 0;
}

int guest_set_table(struct guest *guest, const struct guest_mapping *table, const int *fds, unsigned n) {
        uint64_t end;
        int r;

        if (n == 0 || n > GUEST_TABLE_MAX)
                return -EINVAL;
        for (unsigned i = 0; i < n; i++) {
                if (table[i].size == 0 || __builtin_add_overflow(table[i].gpa, table[i].size, &end) ||
                    __builtin_add_overflow(table[i].user, table[i].size, &end) ||
                    __builtin_add_overflow(table[i].offset, table[i].size, &end))
                        return -EINVAL;
                r = mapping_check(guest, &table[i], fds[i]);
                if (r < 0)
                        return r;
        }
        memcpy(guest->table, table, n * sizeof *table);
        guest->n_table = n;
        return 0;
}

void guest_clear_table(struct guest *guest) {
        guest->n_table = 0;
}

int guest_user_to_gpa(const struct guest *guest, uint64_t user, uint64_t len, uint64_t *ret_gpa) {
        for (unsigned i = 0; i < guest->n_table; i++) {
                const struct guest_mapping *m = &guest->table[i];

                if (user >= m->user && range_fits(user - m->user, len, m->size)) {
                        *ret_gpa = m->gpa + (user - m->user);
                        return 0;
                }
        }
        return -EFAULT;
}

void guest_range_add(struct pb_range *ranges, unsigned *n, uint64_t gpa, uint64_t len, uint32_t intent) {
        if (len == 0)
                return;
        /* Worth it beyond the saved ranges: PB_OVERWRITE spares the fetch of whole pages only, and two halves of a page
         * are a whole page only together. */
        if (*n > 0) {
                struct pb_range *last = &ranges[*n - 1];

                if (last->intent == intent && last->gpa + last->len == gpa && last->len + len > len) {
                        last->len += len;
                        return;
                }
        }
        ranges[(*n)++] = (struct pb_range) { .gpa = gpa, .len = len, .intent = intent };
}

int guest_translate(struct guest *guest, uint64_t gpa, uint64_t len, struct iovec *iov, unsigned *n, unsigned max) {
        while (len > 0) {
                const struct pb_region *region = region_find(guest, gpa);
                uint64_t piece;
                void *address;

                if (!region)
                        return -EFAULT;
                piece = min_u64(len, region->size - (gpa - region->gpa));
                address = pb_translate(guest->client, gpa, piece);
                if (!address)
                        return -EFAULT;
                if (*n == max)
                        return -E2BIG;
                iov[(*n)++] = (struct iovec) { .iov_base = address, .iov_len = piece };
                gpa += piece;
                len -= piece;
        }
        return 0;
}
