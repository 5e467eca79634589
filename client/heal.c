/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "client/client.h"
#include "common/macro.h"

static int heal_pages(pb_client *client, uint32_t memory, uint64_t first, uint64_t n, uint64_t *ret_healed) {
        struct pb_message_heal message = {
                .header = { .type = PB_MSG_HEAL, .size = sizeof message },
                .memory = memory,
                .first = first,
                .n_pages = n,
        };
        union link_message reply;
        int r = call_exchange(&client->channel, &message, NULL, 0, PB_MSG_RESULT, CALL_TIMEOUT_US, &reply);

        if (r < 0)
                return r;
        *ret_healed += reply.result.value;
        return 0;
}

/* What of [gpa, end) lies in the region, whole pages. Two regions that show the same pages are both asked for: the
 * second finds nothing to heal. */
static int heal_region(pb_client *client, const struct link_region *region, uint64_t gpa, uint64_t end,
                       uint64_t *ret_healed) {
        uint64_t from = max_u64(gpa, region->gpa), to = min_u64(end, region->gpa + region->size), first, last;

        if (from >= to)
                return 0;
        first = (region->offset + (from - region->gpa)) >> PB_PAGE_SHIFT;
        last = (region->offset + (to - 1 - region->gpa)) >> PB_PAGE_SHIFT;
        return heal_pages(client, region->memory, first, last - first + 1, ret_healed);
}

static int heal(pb_client *client, uint64_t gpa, uint64_t len, uint64_t *ret_healed) {
        int r = 0;

        if (client->role != PB_ROLE_VMM)
                return -EACCES;
        if (len == 0)
                return gpa == 0 ? heal_pages(client, UINT32_MAX, 0, 0, ret_healed) : -EINVAL;
        if (len > UINT64_MAX - gpa)
                return -EINVAL;
        for (unsigned i = 0; i < client->n_regions && r >= 0; i++)
                r = heal_region(client, &client->regions[i], gpa, gpa + len, ret_healed);
        return r;
}

int pb_heal(pb_client *client, uint64_t gpa, uint64_t len, uint64_t *ret_healed) {
        uint64_t healed = 0;
        int r = client_check(client);

        if (r < 0)
                return r;
        r = heal(client, gpa, len, &healed);
        if (r < 0)
                return failure_record(&client->failures, &(struct failure) { FAILURE_HEAL, r, FAILURE_AT_GPA, 0, gpa });
        if (ret_healed)
                *ret_healed = healed;
        return 0;
}
