/* SPDX-License-Identifier: MIT */
/* The one place where an errno of this library becomes a sentence for a person. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/client.h"
#include "common/macro.h"

static const char *const call_names[] = {
        [FAILURE_NONE] = "",
        [FAILURE_GET_REGION] = "pb_get_region",
        [FAILURE_ENSURE] = "pb_ensure",
        [FAILURE_ENSUREV] = "pb_ensurev",
        [FAILURE_SUBMIT] = "pb_submit",
        [FAILURE_REAP] = "pb_reap",
        [FAILURE_GET_FD] = "pb_get_fd",
        [FAILURE_PREFETCH] = "pb_prefetch",
        [FAILURE_DISCARD] = "pb_discard",
        [FAILURE_ATTACH_VMM] = "pb_attach_vmm",
        [FAILURE_SET_FILL] = "pb_set_fill",
        [FAILURE_HEAL] = "pb_heal",
        [FAILURE_GET_STATS] = "pb_get_stats",
        [FAILURE_GET_COUNTERS] = "pb_get_counters",
        [FAILURE_GET_EVENT] = "pb_get_event",
        [FAILURE_RELEASE_REGION] = "pb_release_region",
        [FAILURE_ADD_MEMORY] = "pb_add_memory",
        [FAILURE_REMOVE_MEMORY] = "pb_remove_memory",
};
static_assert(ELEMENTS(call_names) == _FAILURE_CALLS, "a name for each call");

static const struct {
        int error;
        const char *sentence;
} sentences[] = {
        { -EINVAL, "an argument is not valid (intent, alignment, size or a reserved field)" },
        { -EFAULT, "the range does not lie inside guest memory" },
        { -EACCES, "the role of this client does not allow it" },
        { -EIO, "the source could not be read and the page is poisoned" },
        { -ENOMEM, "there is no memory or no huge page left to put the page into" },
        { -EAGAIN, "too many requests are outstanding" },
        { -ETIMEDOUT, "it took longer than allowed" },
        { -ECONNRESET, "the broker is gone" },
        { -ENOENT, "there is no such region" },
        { -EPROTO, "the broker broke the protocol" },
        { -EBUSY, "it has been done before" },
        { -ESTALE, "the source is no longer what it was when the broker opened it" },
        { -EOPNOTSUPP, "this kernel or this broker cannot do it" },
        { -EPERM, "the kernel does not allow this process to create a userfaultfd that covers system calls, and the "
                  "broker handed out no /dev/userfaultfd" },
        { -ENOSYS, "this process may not use futex_waitv(2): a seccomp filter, or a kernel before 5.16" },
};

static const char *get_sentence(int error, char *buffer, size_t size) {
        for (size_t i = 0; i < ELEMENTS(sentences); i++)
                if (sentences[i].error == error)
                        return sentences[i].sentence;
        return strerror_r(-error, buffer, size);
}

/* Where the page is seen in guest-physical space, if it is. */
static bool find_gpa(const pb_client *client, uint32_t memory, uint64_t page, uint64_t *ret) {
        uint64_t offset = page << PB_PAGE_SHIFT;

        for (unsigned i = 0; i < client->n_regions; i++) {
                const struct link_region *region = &client->regions[i];

                if (region->memory == memory && offset >= region->offset && offset - region->offset < region->size) {
                        *ret = region->gpa + (offset - region->offset);
                        return true;
                }
        }
        return false;
}

static void describe_place(const pb_client *client, const struct failure_entry *entry, char *ret, size_t size) {
        uint64_t gpa;

        ret[0] = 0;
        if (entry->place_kind == FAILURE_AT_GPA)
                (void) snprintf(ret, size, " at guest-physical address 0x%" PRIx64, entry->place);
        else if (entry->place_kind == FAILURE_AT_PAGE && entry->memory < client->n_memories) {
                int n = snprintf(ret, size, " at offset 0x%" PRIx64 " of memory '%s'", entry->place << PB_PAGE_SHIFT,
                                 client->memories[entry->memory].name);

                if (n >= 0 && (size_t) n < size && find_gpa(client, entry->memory, entry->place, &gpa))
                        (void) snprintf(ret + n, size - (size_t) n, " (guest-physical address 0x%" PRIx64 ")", gpa);
        }
}

static void ask_reason(pb_client *client, const struct failure_entry *entry, char *ret) {
        struct pb_message_explain message = {
                .header = { .type = PB_MSG_EXPLAIN, .size = sizeof message },
                .memory = entry->memory,
                .page = entry->place,
        };
        union link_message reply;
        int r;

        reply.header.type = 0;
        r = call_exchange(&client->channel, &message, NULL, 0, PB_MSG_RESULT, CALL_TIMEOUT_US, &reply);
        /* The error in the answer is why the page is poisoned: with 0 it no longer is. */
        if (reply.header.type == PB_MSG_RESULT)
                link_copy_text(ret, r < 0 ? reply.result.text : "it has been healed since; ask again", PB_TEXT_SIZE);
}

const char *pb_explain(pb_client *client) {
        char place[160], unknown[64], reason[PB_TEXT_SIZE] = "";
        struct failure_entry *entry;

        if (!client)
                return "there is no connection";
        if (client_check(client) < 0)
                return "this process is a fork of the one that connected: it must connect anew";
        entry = failure_find(&client->failures);
        if (!entry)
                return "no call of this thread has failed";
        if (entry->explained == entry->turn)
                return entry->text;
        describe_place(client, entry, place, sizeof place);
        if (entry->error == -EIO && entry->place_kind == FAILURE_AT_PAGE)
                ask_reason(client, entry, reason);
        else if (entry->error == -EBUSY && entry->call == FAILURE_REMOVE_MEMORY)
                link_copy_text(reason, client->holders, PB_TEXT_SIZE);
        else if (entry->error == -ECONNRESET) {
                link_copy_text(reason, call_read_farewell(&client->channel), PB_TEXT_SIZE);
                if (!reason[0] && client_is_dead(client)) /* said to whoever tried to resume */
                        link_copy_text(reason, client->resume.reason, PB_TEXT_SIZE);
        }
        (void) snprintf(entry->text, sizeof entry->text, "%s%s: %s%s%s",
                        entry->call < _FAILURE_CALLS ? call_names[entry->call] : "", place,
                        entry->error == -EBUSY && entry->call == FAILURE_REMOVE_MEMORY
                                ? "the memory cannot leave yet"
                                : get_sentence(entry->error, unknown, sizeof unknown),
                        reason[0] ? ": " : "", reason);
        entry->explained = entry->turn;
        return entry->text;
}
