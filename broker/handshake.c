/* SPDX-License-Identifier: MIT */
/* Who may come in as what, and what they are given. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/access.h"
#include "broker/broker.h"
#include "broker/closer.h"
#include "broker/bus/bus.h"
#include "broker/connection.h"
#include "broker/holders.h"
#include "broker/hotplug.h"
#include "broker/kill-point.h"
#include "broker/memory.h"
#include "broker/events.h"
#include "broker/ledger.h"
#include "broker/pager.h"
#include "broker/restart.h"
#include "broker/session.h"
#include "broker/tally.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker fcntl:cmd=F_GET_SEALS newfstatat:arg3=AT_EMPTY_PATH ?fstat */

static const char *const role_names[] = {
        [PB_AS_DEVICE] = "device",
        [PB_AS_DEVICE_RO] = "device-ro",
        [PB_AS_VMM] = "vmm",
        [PB_AS_OBSERVER] = "observer",
};
static_assert(ELEMENTS(role_names) == PB_AS_OBSERVER + 1, "a name for each role");

const char *connection_role_name(const struct connection *connection) {
        return role_names[connection->role];
}

static void copy_name(char ret[PB_NAME_SIZE], const char *from) {
        size_t n = strnlen(from, PB_NAME_SIZE - 1);

        for (size_t i = 0; i < n; i++)
                ret[i] = isgraph((unsigned char) from[i]) ? from[i] : '?';
        ret[n] = 0;
        if (n == 0)
                (void) snprintf(ret, PB_NAME_SIZE, "?");
}

static bool has_session(const struct pb_message_hello *hello) {
        return hello->role != PB_AS_OBSERVER && !(hello->flags & PB_HELLO_NO_SESSION);
}

static uint64_t get_inode(int fd) {
        struct stat st;

        return fd >= 0 && fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static bool refuse(struct connection *connection, const struct pb_message_hello *hello, int ring) {
        char text[PB_TEXT_SIZE];
        int error = 0;

        if (hello->version_min > hello->version_max || hello->version_min > PB_VERSION_MAX ||
            hello->version_max < PB_VERSION_MIN) {
                error = -EPROTONOSUPPORT;
                (void) snprintf(text, sizeof text, "speaks protocol versions %u to %u; this broker speaks %u to %u",
                                hello->version_min, hello->version_max, PB_VERSION_MIN, PB_VERSION_MAX);
        } else if (hello->incompat & ~PB_FEATURES_INCOMPAT) {
                error = -EPROTONOSUPPORT;
                (void) snprintf(text, sizeof text, "needs features 0x%llx that this broker does not have",
                                (unsigned long long) (hello->incompat & ~PB_FEATURES_INCOMPAT));
        } else if (hello->role < PB_AS_DEVICE || hello->role > PB_AS_OBSERVER ||
                   hello->flags & ~(uint32_t) PB_HELLO_NO_SESSION) {
                error = -EINVAL;
                (void) snprintf(text, sizeof text, "asks for a role or flag that does not exist");
        } else if (hello->epoch != 0 && !restart_carries_on(connection->broker, hello->epoch)) {
                error = -ESTALE;
                (void) snprintf(text, sizeof text, "resumes a session of an epoch that this broker does not carry on");
        } else if (ring >= 0 && (hello->epoch == 0 || !has_session(hello) ||
                                 memfd_check(ring, sizeof(struct pb_ring), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)) {
                error = -EPROTO;
                (void) snprintf(text, sizeof text, "sent a descriptor with HELLO that is not the ring of a session to be "
                                                   "resumed");
        } else if (!access_is_granted(connection->broker, (enum pb_role) hello->role, &connection->credentials,
                                      connection->fd)) {
                error = -EACCES;
                (void) snprintf(text, sizeof text, "uid %u may not connect as %s; see --allow of pagebrokerd%s",
                                connection->credentials.uid, role_names[hello->role],
                                hello->role == PB_AS_DEVICE_RO ? " (never root or the broker's own uid)" : "");
        } else if (has_session(hello) && !holders_have_room(connection, get_inode(ring))) {
                error = -EMFILE;
                (void) snprintf(text, sizeof text, "too many clients of uid %u have gone without a word, and their processes may "
                                                   "still use memory that can be unplugged",
                                connection->credentials.uid);
        }
        if (error)
                connection_hang_up(connection, error, text);
        return error;
}

static int send_memory(struct connection *connection, const struct memory *memory, uint64_t serial, bool resuming) {
        bool shown = hotplug_is_shown(memory, resuming);
        struct pb_message_memory message = {
                .header = { .type = PB_MSG_MEMORY, .size = sizeof message, .serial = serial },
                .index = memory->index,
        };
        int fds[2] = { connection->role == PB_AS_DEVICE_RO ? memory->fd_readonly : memory->fd, memory->map_fd };
        int r;

        if (shown) {
                message.flags = memory->standing == MEMORY_LEAVING ? PB_MEMORY_LEAVING : 0;
                message.size = memory->size;
                message.backing_size = memory->backing_size;
                message.map_size = presence_map_size(memory->n_pages);
                message.device = memory->device;
                message.inode = memory->inode;
                memcpy(message.name, memory->name, sizeof message.name);
                connection->given |= 1u << memory->index;
                holder_note(connection);
        }
        r = connection_send(connection, &message, sizeof message, fds,
                            shown && connection->role != PB_AS_OBSERVER ? ELEMENTS(fds) : 0);
        if (r == 0 && shown && !resuming)
                connection->told |= 1u << memory->index;
        return r;
}

static int send_region(struct connection *connection, const struct region *region, uint64_t serial) {
        struct pb_message_region message = {
                .header = { .type = PB_MSG_REGION, .size = sizeof message, .serial = serial },
                .index = connection->n_regions++,
                .memory = region->memory,
                .gpa = region->gpa,
                .size = region->size,
                .offset = region->offset,
        };

        return connection_send(connection, &message, sizeof message, NULL, 0);
}

/* Those that came later stand behind the others in our list; a client gets them ascending. */
static unsigned sort_regions(const struct connection *connection, const struct region *ret[PB_REGIONS_MAX]) {
        const struct broker *broker = connection->broker;
        unsigned n = 0;

        for (unsigned i = 0; i < broker->n_regions; i++) {
                const struct region *region = &broker->regions[i];
                unsigned at = n;

                if (!hotplug_is_shown(broker->memories[region->memory], connection->resumed))
                        continue;
                for (; at > 0 && ret[at - 1]->gpa > region->gpa; at--)
                        ret[at] = ret[at - 1];
                ret[at] = region;
                n++;
        }
        return n;
}

static int send_memories(struct connection *connection, const struct region *const regions[], unsigned n_regions,
                         uint64_t serial) {
        struct broker *broker = connection->broker;
        int r = 0;

        for (unsigned i = 0; i < broker->n_memories && r == 0; i++)
                r = send_memory(connection, broker->memories[i], serial, connection->resumed);
        for (unsigned i = 0; i < n_regions && r == 0; i++)
                r = send_region(connection, regions[i], serial);
        return r;
}

void connection_tell_memory(struct connection *connection, const struct memory *memory) {
        const struct broker *broker = connection->broker;
        int r = send_memory(connection, memory, 0, false);

        for (unsigned i = 0; i < broker->n_regions && r == 0; i++)
                if (broker->regions[i].memory == memory->index)
                        r = send_region(connection, &broker->regions[i], 0);
}

void connection_note_arrival(struct connection *connection) {
        struct broker *broker = connection->broker;
        struct timespec now;

        (void) clock_gettime(CLOCK_REALTIME, &now);
        connection->id = ++broker->last_connection_id;
        connection->connected_us = (uint64_t) now.tv_sec * USEC_PER_SEC + (uint64_t) now.tv_nsec / NSEC_PER_USEC;
        if (connection->role == PB_AS_OBSERVER)
                return;
        connection->tally = tally_new();
        if (!connection->tally)
                return;
        LL_PREPEND(broker->tallies, connection->tally);
        (void) tally_ref(connection->tally);
}

/* The client has lost its connection, which we may not have noticed: two sessions would take requests out of one ring,
 * each with outcomes of its own. What the client pushes after our answer is for the new one alone, so the old one must
 * be closed by then. */
static void close_older_sessions(struct connection *connection, uint64_t ring_inode) {
        struct connection *other, *next;
        bool any = false;

        DL_FOREACH_SAFE (connection->broker->connections, other, next)
                if (other != connection && other->session_id && other->ring_inode == ring_inode &&
                    other->credentials.pid == connection->credentials.pid) {
                        connection_hang_up(other, 0, NULL);
                        any = true;
                }
        if (any)
                pager_sync(connection->broker->pager);
}

static int send_session(struct connection *connection, uint64_t serial, int ring) {
        struct broker *broker = connection->broker;
        struct pb_message_session message = {
                .header = { .type = PB_MSG_SESSION, .size = sizeof message, .serial = serial },
                .ring_size = sizeof(struct pb_ring),
                .state_size = sizeof(struct pb_session_state),
                .n_slots = PB_RING_SLOTS,
                .flags = ring >= 0 ? PB_SESSION_RESUMED : 0,
        };
        struct session *session;
        int fds[4], r;

        if (ring >= 0)
                close_older_sessions(connection, get_inode(ring));
        r = session_new(&session, ++broker->last_session_id, connection->role, connection->name, broker->epoch, ring, fds);
        if (broker->ledger)
                broker->ledger->data->last_session_id = broker->last_session_id;
        if (r < 0) {
                connection_hang_up(connection, r, "no descriptors or memory left for another session");
                return r;
        }
        session->limits = broker->options->client;
        connection->ring_inode = get_inode(fds[0]);
        connection->session_id = session->id;
        connection->session = session;
        /* It holds what it was given from here on: in the ledger before it knows, and then in place of what it was before. */
        connection->has_session = true;
        holder_note(connection);
        KILL_POINT("holder-entered");
        holder_supersede(connection);
        if (connection->tally && tally_add_slots(connection->tally) == 0)
                session->tally = tally_ref(connection->tally);
        pager_add_session(broker->pager, session);
        r = connection_send(connection, &message, sizeof message, fds, ELEMENTS(fds));
        for (unsigned i = 0; i < ELEMENTS(fds); i++)
                (void) fd_close(fds[i]);
        return r;
}

void connection_hello(struct connection *connection, const struct pb_message_hello *hello, int received) {
        _cleanup_close_ int ring = -1;

        struct broker *broker = connection->broker;
        uint64_t serial = hello->header.serial;
        struct pb_message_welcome welcome = {
                .header = { .type = PB_MSG_WELCOME, .size = sizeof welcome, .serial = serial },
                .version = (uint32_t) min_u64(PB_VERSION_MAX, hello->version_max),
                .role = hello->role,
                .compat = PB_FEATURES_COMPAT,
                .incompat = PB_FEATURES_INCOMPAT,
                .epoch = broker->epoch,
                .n_memories = broker->n_memories,
                .broker_pid = (uint32_t) getpid(),
        };
        const struct region *regions[PB_REGIONS_MAX];
        struct pb_message_plain device = { .header = { .type = PB_MSG_UFFD_DEVICE, .size = sizeof device, .serial = serial } };
        struct pb_message_plain ready = { .header = { .type = PB_MSG_READY, .size = sizeof ready, .serial = serial } };

        connection->timer = sd_event_source_disable_unref(connection->timer);
        copy_name(connection->name, hello->name);
        /* Before anything else is done to it, close() included: it could hang. */
        if (received >= 0 && fd_get_kind(received) != FD_KIND_MEMFD) {
                closer_close(received, connection->account);
                connection_hang_up(connection, -EPROTO, "sent a descriptor with HELLO that is not the ring of a session");
                return;
        }
        ring = received;
        if (refuse(connection, hello, ring))
                return;
        connection->role = (enum pb_role) hello->role;
        connection->ready = true;
        connection->hotplug = hello->compat & PB_FEATURE_HOTPLUG;
        connection->resumed = hello->epoch != 0;
        welcome.n_regions = sort_regions(connection, regions);
        connection_note_arrival(connection);
        if (has_session(hello))
                welcome.session_id = broker->last_session_id + 1;
        memcpy(welcome.name, broker->options->name, sizeof welcome.name);
        if (connection_send(connection, &welcome, sizeof welcome, NULL, 0) < 0 ||
            send_memories(connection, regions, welcome.n_regions, serial) < 0 ||
            (welcome.session_id && send_session(connection, serial, fd_take(&ring)) < 0) ||
            ((connection->role == PB_AS_VMM || connection->role == PB_AS_DEVICE) && broker->uffd_device >= 0 &&
             connection_send(connection, &device, sizeof device, &broker->uffd_device, 1) < 0) ||
            connection_send(connection, &ready, sizeof ready, NULL, 0) < 0) {
                connection_hang_up(connection, 0, NULL);
                return;
        }
        if (connection->role == PB_AS_OBSERVER)
                return;
        bus_client_arrived(connection);
        if (broker_may_log_client())
                log_event(LOG_INFO, (.id = EVENT_CLIENT_CONNECTED, .client = connection->name),
                          "client %s (pid %d, uid %u) %s as %s", connection->name, (int) connection->credentials.pid,
                          connection->credentials.uid, hello->epoch ? "carries on" : "connected",
                          role_names[connection->role]);
}
