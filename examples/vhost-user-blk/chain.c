/* SPDX-License-Identifier: MIT */
#include "chain.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>

struct descriptor {
        uint64_t addr;
        uint32_t len;
        uint16_t flags;
        uint16_t next;
};

/* The only reads of a descriptor: single accesses, so that what was validated is what is used. */
static struct descriptor descriptor_load(const struct vring_desc *desc) {
        return (struct descriptor) {
                .addr = le64toh(__atomic_load_n(&desc->addr, __ATOMIC_RELAXED)),
                .len = le32toh(__atomic_load_n(&desc->len, __ATOMIC_RELAXED)),
                .flags = le16toh(__atomic_load_n(&desc->flags, __ATOMIC_RELAXED)),
                .next = le16toh(__atomic_load_n(&desc->next, __ATOMIC_RELAXED)),
        };
}

void chain_init(struct chain *chain) {
        /* Not the segments: 2 KiB that n_readable and n_writable guard. */
        chain->n_readable = chain->n_writable = 0;
        chain->too_long = false;
        chain->readable_len = chain->writable_len = 0;
        chain->last = chain->indirect = (struct segment) {};
}

static const char *chain_add(struct chain *chain, const struct descriptor *d) {
        struct segment segment = { .gpa = d->addr, .len = d->len };
        bool writable = d->flags & VRING_DESC_F_WRITE;

        if (segment.len == 0)
                return NULL;
        if (segment.gpa + segment.len < segment.gpa)
                return "a buffer wraps around the end of the address space";
        if (!writable && chain->n_writable > 0)
                return "a readable buffer after a writable one";
        if (chain->n_readable + chain->n_writable == CHAIN_MAX)
                chain->too_long = true;
        else
                chain->segments[chain->n_readable + chain->n_writable] = segment;
        if (writable) {
                chain->last = segment;
                chain->writable_len += segment.len;
                chain->n_writable += !chain->too_long;
        } else {
                chain->readable_len += segment.len;
                chain->n_readable += !chain->too_long;
        }
        return NULL;
}

static const char *chain_set_indirect(struct chain *chain, const struct descriptor *d, bool may_indirect) {
        if (!may_indirect)
                return "an indirect descriptor inside an indirect table, or not negotiated";
        if (d->flags & VRING_DESC_F_NEXT)
                return "an indirect descriptor that has a successor";
        if (d->len == 0 || d->len % sizeof(struct vring_desc) != 0 || d->len / sizeof(struct vring_desc) > TABLE_MAX)
                return "an indirect table of impossible size";
        if (d->addr % sizeof(uint64_t) != 0 || d->addr + d->len < d->addr)
                return "an indirect table at an impossible address";
        chain->indirect = (struct segment) { .gpa = d->addr, .len = d->len };
        return NULL;
}

int chain_walk(struct chain *chain, const struct vring_desc *table, unsigned n, unsigned head, bool may_indirect,
               const char **ret_reason) {
        const char *reason = NULL;
        unsigned index = head;

        /* A chain visits no descriptor twice, so more than `n` steps are a loop. */
        for (unsigned steps = 0; steps < n; steps++) {
                struct descriptor d;

                if (index >= n) {
                        reason = "a descriptor index outside the table";
                        break;
                }
                d = descriptor_load(&table[index]);
                if (d.flags & VRING_DESC_F_INDIRECT) {
                        reason = chain_set_indirect(chain, &d, may_indirect);
                        if (!reason)
                                return 0;
                        break;
                }
                reason = chain_add(chain, &d);
                if (reason)
                        break;
                if (!(d.flags & VRING_DESC_F_NEXT))
                        return 0;
                index = d.next;
        }
        *ret_reason = reason ? reason : "a loop";
        return -EBADMSG;
}
