/* SPDX-License-Identifier: MIT */
/* What the control thread does about pages that could not be had. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/broker.h"
#include "broker/events.h"
#include "broker/notify.h"
#include "broker/pager.h"
#include "broker/source.h"
#include "common/log.h"
#include "common/macro.h"

static int heal(struct broker *broker, struct memory *memory, uint64_t first, uint64_t n, const char *why,
                uint64_t *ret_healed) {
        int r = pager_heal(broker->pager, memory, first, n, ret_healed);

        if (r < 0)
                log_warning("memory %s: not healed: source %s: %s", memory->name, memory->source->name,
                            source_error_text(r));
        else if (*ret_healed > 0)
                log_event(LOG_NOTICE, (.id = EVENT_HEALED, .memory = memory->name),
                          "memory %s: %" PRIu64 " pages healed (%s)", memory->name, *ret_healed, why);
        return r;
}

int broker_heal(struct broker *broker, unsigned index, uint64_t first, uint64_t n, uint64_t *ret_healed) {
        struct memory *memory;

        if (index >= broker->n_memories)
                return -ENOENT;
        memory = broker->memories[index];
        if (n == 0 && first < memory->n_pages)
                n = memory->n_pages - first;
        if (n == 0 || !range_fits(first, n, memory->n_pages))
                return -EINVAL;
        return heal(broker, memory, first, n, "asked for", ret_healed);
}

int broker_heal_all(struct broker *broker, uint64_t *ret_healed) {
        uint64_t healed, sum = 0;
        int r, result = 0;

        for (unsigned i = 0; i < broker->n_memories; i++) {
                r = broker_heal(broker, i, 0, 0, &healed);
                if (r < 0)
                        result = r;
                else
                        sum += healed;
        }
        *ret_healed = sum;
        return result;
}

static int on_heal_timer(sd_event_source *source, uint64_t usec, void *data) {
        struct broker *broker = data;
        uint64_t healed;

        for (unsigned i = 0; i < broker->n_memories; i++) {
                struct memory *memory = broker->memories[i];

                /* Said once, when it was noticed: a changed source stays as it is. */
                if (atomic_load_explicit(&memory->source_lost, memory_order_relaxed))
                        continue;
                if (pager_heal(broker->pager, memory, 0, memory->n_pages, &healed) == 0 && healed > 0)
                        log_info("memory %s: %" PRIu64 " poisoned pages may be asked for again (--heal-interval)",
                                 memory->name, healed);
        }
        /* What is complete stays so, and then nothing of ours wakes up any more. */
        if (pager_is_complete(broker->pager))
                return 0;
        (void) sd_event_source_set_time_relative(source, broker->options->heal_interval_us);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

void broker_note_lost(void *data, struct memory *memory, uint64_t page) {
        struct broker *broker = data;

        (void) pthread_mutex_lock(&broker->lock);
        if (!broker->lost) {
                broker->lost = memory;
                broker->lost_page = page;
        }
        (void) pthread_mutex_unlock(&broker->lock);
        (void) !write(broker->eventfd, &(uint64_t) { 1 }, sizeof(uint64_t));
}

void broker_give_up(struct broker *broker, struct memory *memory, uint64_t page) {
        int error = memory_poison_reason(memory, page);
        char text[512];

        if (broker->given_up)
                return;
        broker->given_up = true;
        (void) snprintf(text, sizeof text, "memory %s: page %" PRIu64 " (offset 0x%llx): source %s: %s", memory->name, page,
                        page * PB_PAGE_BYTES, memory->source->name,
                        error ? source_error_text(error) : "healed since");
        log_event(LOG_ERR, (.id = EVENT_VM_LOST, .memory = memory->name), "%s; the VM waits for it in vain and is to be stopped (--on-error=stop)", text);
        notify_printf(broker->notify, "STOPPING=1\nERRNO=%d\nSTATUS=the VM cannot go on: %s", EIO, text);
        (void) sd_event_exit(broker->event, BROKER_EXIT_LOST);
}

int broker_start_healing(struct broker *broker) {
        if (broker->options->heal_interval_us == 0)
                return 0;
        return sd_event_add_time_relative(broker->event, NULL, CLOCK_MONOTONIC, broker->options->heal_interval_us, 0,
                                          on_heal_timer, broker);
}
