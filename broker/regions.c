/* SPDX-License-Identifier: MIT */
/* Where the guest sees which part of a memory: --region, or one memory behind the other. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/broker.h"
#include "common/log.h"
#include "common/macro.h"

static int compare_regions(const void *a, const void *b) {
        const struct region *left = a, *right = b;

        return left->gpa < right->gpa ? -1 : left->gpa > right->gpa;
}

static int make_region(struct broker *broker, const struct option_region *option) {
        struct region *region = &broker->regions[broker->n_regions];
        const struct memory_plan *plan = NULL;
        bool unplugged = false;
        uint64_t end;

        for (unsigned i = 0; i < broker->n_memories; i++)
                if (strcmp(broker->options->memories[i].name, option->memory) == 0) {
                        plan = &broker->plans[i];
                        region->memory = i;
                        unplugged = !broker->options->memories[i].plugged;
                }
        if (!plan) {
                log_error("--region: there is no --memory=%s", option->memory);
                return -ENOENT;
        }
        if (unplugged) {
                log_error("--region: memory %s is plugged=off; whoever plugs it in says where", option->memory);
                return -EINVAL;
        }
        region->gpa = option->gpa;
        region->size = option->size;
        region->offset = option->offset;
        region->numa = option->numa.mode ? &option->numa : NULL;
        if (!is_aligned(region->gpa | region->size | region->offset, plan->backing_size) ||
            __builtin_add_overflow(region->gpa, region->size, &end) ||
            !range_fits(region->offset, region->size, plan->size)) {
                log_error("--region=0x%llx: must lie inside memory %s, with everything a multiple of its page size %llu",
                          (unsigned long long) region->gpa, option->memory, (unsigned long long) plan->backing_size);
                return -EINVAL;
        }
        broker->n_regions++;
        return 0;
}

/* A policy belongs to pages, not to addresses: what two regions show has one. */
static int check_policies(const struct broker *broker) {
        for (unsigned i = 0; i < broker->n_regions; i++)
                for (unsigned n = 0; n < i; n++) {
                        const struct region *a = &broker->regions[n], *b = &broker->regions[i];

                        if (a->memory != b->memory || !a->numa || !b->numa || a->offset >= b->offset + b->size ||
                            b->offset >= a->offset + a->size || memcmp(a->numa, b->numa, sizeof *a->numa) == 0)
                                continue;
                        log_error("--region: those at 0x%llx and 0x%llx show the same part of memory %s, with different "
                                  "values of numa-policy; its pages can have one",
                                  (unsigned long long) a->gpa, (unsigned long long) b->gpa,
                                  broker->options->memories[a->memory].name);
                        return -EINVAL;
                }
        return 0;
}

int broker_make_regions(struct broker *broker) {
        uint64_t gpa = 0;
        int r = 0;

        for (unsigned i = 0; i < broker->options->n_regions && r == 0; i++)
                r = make_region(broker, &broker->options->regions[i]);
        for (unsigned i = 0; i < broker->n_memories && broker->options->n_regions == 0; i++) {
                if (!broker->options->memories[i].plugged)
                        continue;
                broker->regions[broker->n_regions++] =
                        (struct region) { .memory = i, .gpa = gpa, .size = broker->plans[i].size };
                gpa += broker->plans[i].size;
        }
        if (r < 0)
                return r;
        qsort(broker->regions, broker->n_regions, sizeof broker->regions[0], compare_regions);
        for (unsigned i = 1; i < broker->n_regions; i++)
                if (broker->regions[i].gpa < broker->regions[i - 1].gpa + broker->regions[i - 1].size) {
                        log_error("--region: the one at 0x%llx overlaps the one at 0x%llx",
                                  (unsigned long long) broker->regions[i].gpa,
                                  (unsigned long long) broker->regions[i - 1].gpa);
                        return -EINVAL;
                }
        return check_policies(broker);
}
