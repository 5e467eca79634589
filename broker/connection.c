/* SPDX-License-Identifier: MIT */
#include "broker/connection.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>

#include "broker/access.h"
#include "broker/account.h"
#include "broker/broker.h"
#include "broker/bus/bus.h"
#include "broker/closer.h"
#include "broker/holders.h"
#include "broker/hotplug.h"
#include "broker/events.h"
#include "broker/ledger.h"
#include "broker/pager.h"
#include "broker/peer.h"
#include "broker/restart.h"
#include "broker/session.h"
#include "broker/tally.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/macro.h"
#include "common/packet.h"

/* #syscalls:broker recvmsg recvfrom sendmsg setsockopt getsockopt shutdown readlink ~pidfd_open */

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76 /* Linux 6.5 */
#endif

/* DEFAULT_OVERFLOWUID of the kernel (linux/highuid.h). */
#define OVERFLOW_UID 65534u

#define HELLO_TIMEOUT_US (5 * USEC_PER_SEC)

/* Peeked at, taken, or never to be looked at: see closer.h. */
static void drop_descriptors(const struct connection *connection, struct packet_info *info) {
        for (unsigned i = 0; i < info->n_fds; i++)
                closer_close(info->fds[i], connection->account);
        info->n_fds = 0;
}

int connection_send(struct connection *connection, const void *message, size_t size, const int *fds, unsigned n_fds) {
        int r;

        if (connection->fd < 0)
                return -EPIPE;
        r = packet_send(connection->fd, message, size, fds, n_fds, MSG_DONTWAIT);
        if (r == 0)
                return 0;
        /* One that has closed may have said before that it has let go of its memory: the reading side comes to that. */
        if (r != -EPIPE && r != -ECONNRESET)
                connection_hang_up(connection, 0, NULL);
        return -EPIPE;
}

int connection_send_result(struct connection *connection, enum pb_message_type type, uint64_t serial, int error,
                           uint64_t value, const char *text) {
        struct pb_message_result result = {
                .header = { .type = type, .size = sizeof result, .serial = serial },
                .error = error,
                .value = value,
        };

        (void) snprintf(result.text, sizeof result.text, "%s", text);
        return connection_send(connection, &result, sizeof result, NULL, 0);
}

static void drop_peer(struct connection *connection, unsigned i) {
        restart_forget_peer(connection->broker, connection->peers[i]);
        (void) peer_stop(connection->peers[i]);
}

static void drop_dead_peers(struct connection *connection) {
        unsigned keep = 0;

        for (unsigned i = 0; i < connection->n_peers; i++) {
                if (peer_is_dead(connection->peers[i])) {
                        drop_peer(connection, i);
                        continue;
                }
                connection->peers[keep] = connection->peers[i];
                connection->peer_ids[keep++] = connection->peer_ids[i];
        }
        connection->n_peers = keep;
}

void connections_drop_dead_peers(struct broker *broker) {
        struct connection *connection;

        DL_FOREACH (broker->connections, connection)
                drop_dead_peers(connection);
}

static int on_exit_of_process(sd_event_source *source, int fd, uint32_t events, void *data) {
        struct connection *connection = data;

        log_debug("client %s (pid %d) has ended", connection->name, (int) connection->credentials.pid);
        (void) connection_free(connection);
        return 0;
}

static void log_gone(const struct connection *connection) {
        struct connection_usage usage;
        char held_back[96] = "";

        connection_get_usage(connection, &usage);
        if (usage.held_back > 0)
                (void) snprintf(held_back, sizeof held_back,
                                "; %" PRIu64 " of its requests were held back by its limits", usage.held_back);
        log_event(LOG_INFO, (.id = EVENT_CLIENT_GONE, .client = connection->name), "client %s (pid %d) has hung up%s",
                  connection->name, (int) connection->credentials.pid, held_back);
}

static int on_patience_is_over(sd_event_source *source, uint64_t usec, void *data) {
        (void) connection_free(data);
        return 0;
}

/* Until it ends, or, if it cannot be seen from here (its pid is not visible), for a while. */
static int watch_process(struct connection *connection) {
        sd_event *event = connection->broker->event;

        if (connection->pidfd >= 0)
                return sd_event_add_io(event, &connection->exit, connection->pidfd, EPOLLIN, on_exit_of_process, connection);
        return sd_event_add_time_relative(event, &connection->timer, CLOCK_MONOTONIC, HOLDER_PATIENCE_US, 0,
                                          on_patience_is_over, connection);
}

void connection_hang_up(struct connection *connection, int error, const char *reason) {
        if (connection->fd < 0)
                return;
        if (reason) {
                struct pb_message_result refused = {
                        .header = { .type = PB_MSG_REFUSED, .size = sizeof refused },
                        .error = error,
                };

                if (connection->ready ? broker_may_log_client() : broker_may_log_stranger())
                        log_event(LOG_WARNING, (.id = EVENT_CLIENT_EXPELLED, .client = connection->name),
                                  "client %s (pid %d, uid %u): %s", connection->name,
                                  (int) connection->credentials.pid, connection->credentials.uid, reason);
                (void) snprintf(refused.text, sizeof refused.text, "%s", reason);
                (void) packet_send(connection->fd, &refused, sizeof refused, NULL, 0, MSG_DONTWAIT);
        } else if (connection->ready && connection->role != PB_AS_OBSERVER && !connection->broker->stopping &&
                   broker_may_log_client())
                log_gone(connection);
        connection->io = sd_event_source_disable_unref(connection->io);
        connection->timer = sd_event_source_disable_unref(connection->timer);
        /* Whoever waits sees the end now; what is left unread may hold descriptors whose last close() hangs. */
        (void) shutdown(connection->fd, SHUT_RDWR);
        closer_close(fd_take(&connection->fd), connection->account);
        connection->broker->n_connections--;
        if (connection->session_id)
                pager_close_session(connection->broker->pager, connection->session_id);
        connection->session_id = 0;
        connection->session = NULL;
        hotplug_forget(connection);
        drop_dead_peers(connection);
        /* Freed by its exit event at the earliest from the event loop: a caller up the stack may still use it. */
        if ((connection->n_peers > 0 || connection->lost) && watch_process(connection) >= 0)
                bus_client_changed(connection);
        else
                connection_release(connection);
}

void connection_release(struct connection *connection) {
        connection->exit = sd_event_source_disable_unref(connection->exit);
        connection->timer = sd_event_source_disable_unref(connection->timer);
        connection->pidfd = fd_close(connection->pidfd);
        (void) sd_event_source_set_enabled(connection->broker->sweep, SD_EVENT_ONESHOT);
}

struct connection *connection_free(struct connection *connection) {
        if (!connection)
                return NULL;
        connection_hang_up(connection, 0, NULL);
        bus_client_left(connection);
        holder_drop(connection);
        connection->exit = sd_event_source_disable_unref(connection->exit);
        connection->timer = sd_event_source_disable_unref(connection->timer);
        for (unsigned i = 0; i < connection->n_peers; i++)
                drop_peer(connection, i);
        connection->pidfd = fd_close(connection->pidfd);
        connection->tally = tally_unref(connection->tally);
        DL_DELETE(connection->broker->connections, connection);
        tally_sweep(&connection->broker->tallies, connection->broker->departed);
        free(connection);
        return NULL;
}

void connection_get_usage(const struct connection *connection, struct connection_usage *ret) {
        const struct options *options = connection->broker->options;
        struct session_usage usage = {};

        if (connection->session)
                session_get_usage(connection->session, &usage);
        *ret = (struct connection_usage) {
                .requests = usage.requests,
                .requests_max = options->client.requests,
                .bytes = (uint64_t) usage.slices * SLICE_PAGES * PB_PAGE_BYTES,
                .bytes_max = (uint64_t) options->client.slices * SLICE_PAGES * PB_PAGE_BYTES,
                .descriptors = connection->n_peers,
                .descriptors_max = options->client_descriptors,
                .waiting = usage.waiting,
                .held_back = usage.held_back,
        };
}

/* While a pidfd has not fired, the pid is that process's and nobody else's. Processes that are not visible here all have
 * pid 0. */
bool connection_is_same_process(const struct connection *a, const struct connection *b) {
        return a == b || (a->credentials.pid > 0 && a->credentials.pid == b->credentials.pid && a->pidfd >= 0 && b->pidfd >= 0 &&
                          poll(&(struct pollfd) { .fd = a->pidfd, .events = POLLIN }, 1, 0) == 0 &&
                          poll(&(struct pollfd) { .fd = b->pidfd, .events = POLLIN }, 1, 0) == 0);
}

/* Does `a` carry on what was begun on `b`? */
static bool may_speak_for(const struct connection *a, const struct connection *b) {
        return a == b || (b->fd < 0 && connection_is_same_process(a, b));
}

struct peer *connection_find_peer(struct connection *connection, uint32_t id) {
        struct connection *other;

        DL_FOREACH (connection->broker->connections, other)
                for (unsigned i = 0; i < other->n_peers; i++)
                        if (other->peer_ids[i] == id)
                                return may_speak_for(connection, other) && !peer_is_dead(other->peers[i]) ? other->peers[i]
                                                                                                          : NULL;
        return NULL;
}

static struct connection *find_restored(struct broker *broker, pid_t pid) {
        struct connection *connection;

        DL_FOREACH (broker->connections, connection)
                if (connection->restored && connection->credentials.pid == pid && connection->n_peers < CONNECTION_PEERS_MAX)
                        return connection;
        return NULL;
}

/* What its threads ask for is counted, and shown, although it may never say HELLO again: an unmodified VMM has no
 * reason to. */
static void show_restored(struct connection *connection) {
        connection->ready = connection->restored = true;
        connection_note_arrival(connection);
        bus_client_arrived(connection);
}

/* A connection without a socket. Takes `pidfd`. */
static int restore(struct connection **ret, struct broker *broker, pid_t pid, uid_t uid, int pidfd) {
        struct connection *connection = calloc(1, sizeof *connection);
        int r;

        if (!connection) {
                (void) fd_close(pidfd);
                return -ENOMEM;
        }
        connection->broker = broker;
        connection->fd = -1;
        connection->pidfd = pidfd;
        connection->uid = uid;
        connection->credentials = (struct ucred) { .pid = pid, .uid = uid };
        r = watch_process(connection);
        if (r < 0) {
                (void) fd_close(pidfd);
                free(connection);
                return r;
        }
        DL_APPEND(broker->connections, connection);
        *ret = connection;
        return 0;
}

int connection_restore_holder(struct broker *broker, struct ledger_holder *entry, int pidfd) {
        struct connection *connection;
        int r = restore(&connection, broker, entry->pid, entry->uid, pidfd);

        if (r < 0)
                return r;
        connection->account = entry->account;
        connection->role = (enum pb_role) entry->role;
        memcpy(connection->name, entry->name, sizeof connection->name);
        connection->ring_inode = entry->ring_inode;
        connection->given = entry->memories;
        connection->holder = entry;
        connection->has_session = connection->lost = true;
        show_restored(connection);
        return 0;
}

int connection_restore(struct connection **ret, struct broker *broker, const struct ledger_peer *entry, int pidfd) {
        struct connection *connection = find_restored(broker, entry->pid);
        int r;

        if (connection) {
                (void) fd_close(pidfd);
                *ret = connection;
                return 0;
        }
        r = restore(&connection, broker, entry->pid, entry->uid, pidfd);
        if (r < 0)
                return r;
        connection->account = entry->account;
        connection->role = entry->privileged ? PB_AS_VMM : PB_AS_DEVICE;
        memcpy(connection->name, entry->name, sizeof connection->name);
        show_restored(connection);
        *ret = connection;
        return 0;
}

void connection_add_peer(struct connection *connection, struct peer *peer, uint32_t id) {
        connection->peers[connection->n_peers] = peer;
        connection->peer_ids[connection->n_peers++] = id;
}

/* A handshake in its first message: who it is, by the kernel's word. */
static void take_identity(struct connection *connection, struct packet_info *info) {
        connection->credentials = info->credentials;
        connection->pidfd = fd_take(&info->pidfd);
        if (connection->pidfd < 0 && info->credentials.pid > 0)
                /* Before Linux 6.5. The process that said hello lives until it has its answer. */
                connection->pidfd = (int) syscall(SYS_pidfd_open, info->credentials.pid, 0);
        (void) setsockopt(connection->fd, SOL_SOCKET, SO_PASSCRED, &(int) { 0 }, sizeof(int));
        (void) setsockopt(connection->fd, SOL_SOCKET, SO_PASSPIDFD, &(int) { 0 }, sizeof(int));
}

/*
 * Looks at the next message before it takes it. A receive that finds no room for descriptors drops them inside the kernel,
 * on this thread, and the last drop of some hangs like their close(). A peek drops nothing for the last time: the
 * message keeps its own reference until it is taken, by when we have one too, or until the socket is closed aside.
 */
static int receive(struct connection *connection, void *buffer, size_t size, struct packet_info *info,
                   const char **ret_reason) {
        struct packet_room room = {
                .n_fds = 1,
                .credentials = !connection->ready,
                .pidfd = !connection->ready && broker_has_pidfds(),
        };
        struct pb_message_header header = {};
        ssize_t n;

        n = packet_receive_exact(connection->fd, buffer, size, &room, info, MSG_PEEK | MSG_DONTWAIT);
        if (n == -ECONNRESET) /* it closed with something unread, which is said first; what it has sent is still there */
                n = packet_receive_exact(connection->fd, buffer, size, &room, info, MSG_PEEK | MSG_DONTWAIT);
        if (n == -EAGAIN)
                return -EAGAIN;
        if (n > 0)
                memcpy(&header, buffer, min_u64((uint64_t) n, sizeof header));
        if (n == -EMSGSIZE ||
            (info->n_fds > 0 && header.type != (connection->ready ? PB_MSG_ATTACH_PEER : PB_MSG_HELLO))) {
                *ret_reason = "sent a message that is too long, or descriptors where none belong";
                return -EPROTO;
        }
        if (n <= 0)
                return -ECONNRESET;
        if (info->n_fds > 0 && !closer_has_room(connection->account)) {
                *ret_reason = "sent a descriptor while too many of its user's hang in close()";
                return -EPROTO;
        }
        (void) recv(connection->fd, NULL, 0, MSG_DONTWAIT);
        if ((size_t) n < sizeof header || header.size != (size_t) n) {
                *ret_reason = "sent a message whose size field is not its size";
                return -EPROTO;
        }
        return (int) n;
}

static int on_message(sd_event_source *source, int fd, uint32_t events, void *data) {
        struct connection *connection = data;
        struct packet_info info = PACKET_INFO_INIT;
        const char *reason = "broke the protocol";
        _Alignas(16) char buffer[PB_MESSAGE_SIZE_MAX];
        int n;

        n = receive(connection, buffer, sizeof buffer, &info, &reason);
        if (n == -EAGAIN)
                return 0;
        if (n == -ECONNRESET)
                connection_hang_up(connection, 0, NULL);
        else if (n < 0)
                connection_hang_up(connection, n, reason);
        else if (!connection->ready) {
                const struct pb_message_hello *hello = (const void *) buffer;

                if (hello->header.type != PB_MSG_HELLO || n != sizeof *hello || !info.has_credentials)
                        connection_hang_up(connection, -EPROTO, "its first message is not a HELLO");
                else if (info.credentials.pid == 0 && info.credentials.uid == OVERFLOW_UID)
                        /* The kernel's words for "sent before anybody asked for credentials", and not a user's id. */
                        connection_hang_up(connection, -EPROTO,
                                           "said HELLO without credentials; on an inherited socket, set SO_PASSCRED first");
                else {
                        int ring = info.n_fds > 0 ? info.fds[0] : -1;

                        info.n_fds = 0;
                        take_identity(connection, &info);
                        /* Its socket, and what may lie unread in it, is closed on this account. */
                        connection->account = access_account(connection->broker, &connection->credentials, fd);
                        connection_hello(connection, hello, ring);
                }
        } else {
                int received = info.n_fds > 0 ? info.fds[0] : -1;

                info.n_fds = 0;
                /* By its /proc link: any call on it could hang or do what its sender chose. */
                if (received >= 0 && fd_get_kind(received) != FD_KIND_USERFAULTFD) {
                        closer_close(received, connection->account);
                        connection_hang_up(connection, -EPROTO, "sent a descriptor that is not a userfaultfd");
                } else if (connection_call(connection, buffer, (size_t) n, received, &reason) == -EPROTO)
                        connection_hang_up(connection, -EPROTO, reason);
        }
        drop_descriptors(connection, &info);
        packet_info_done(&info);
        return 0;
}

static int on_hello_timeout(sd_event_source *source, uint64_t usec, void *data) {
        connection_hang_up(data, -ETIMEDOUT, "connected and did not say HELLO");
        return 0;
}

/* Anybody may knock. So that nobody keeps the VMM out, a user other than root and the broker's own gets a quarter of the
 * places, and all such users together get half. */
static bool has_room(const struct broker *broker, uid_t uid) {
        uint64_t limit = broker->options->client_limit, same = 0, strangers = 0;
        const struct connection *other;

        if (broker->n_connections >= limit)
                return false;
        if (uid == 0 || uid == broker->uid)
                return true;
        DL_FOREACH (broker->connections, other) {
                same += other->fd >= 0 && other->uid == uid;
                strangers += other->fd >= 0 && other->uid != 0 && other->uid != broker->uid;
        }
        return same < max_u64(limit / 4, 1) && strangers < max_u64(limit / 2, 1);
}

static void log_refused(const struct broker *broker, uid_t uid, uid_t account) {
        static struct log_limit limit = { .interval_us = 10 * USEC_PER_SEC, .burst = 1 };
        uint32_t suppressed;

        if (!log_limit_pass(&limit, &suppressed))
                return;
        if (!closer_has_room(account))
                log_warning("a connection of uid %u was refused: %u descriptors of %s hang in close()", uid,
                            account_used(account, ACCOUNT_CLOSES),
                            account == ACCOUNT_STRANGERS ? "users whom no --allow names" : "that user");
        else
                log_warning("a connection of uid %u was refused: %u clients are connected (--client-limit)", uid,
                            broker->n_connections);
}

int connection_new(struct broker *broker, int fd) {
        struct ucred peer = { .uid = OVERFLOW_UID, .gid = (gid_t) -1 };
        struct connection *connection;
        uid_t account;
        int r;

        /* Who connected; who says HELLO may be another, and is asked for what he may do then. */
        (void) getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t) { sizeof peer });
        account = access_account(broker, &peer, fd);
        if (!closer_has_room(account) || !has_room(broker, peer.uid)) {
                log_refused(broker, peer.uid, account);
                closer_close(fd, account);
                return -EMFILE;
        }
        connection = calloc(1, sizeof *connection);
        if (!connection) {
                closer_close(fd, account);
                return -ENOMEM;
        }
        connection->broker = broker;
        connection->fd = fd;
        connection->pidfd = -1;
        connection->uid = peer.uid;
        connection->credentials = peer; /* for the log, until there is a HELLO */
        connection->account = account;
        (void) snprintf(connection->name, sizeof connection->name, "?");
        DL_APPEND(broker->connections, connection);
        broker->n_connections++;
        /* A blocking socket would let one client stop the control thread. */
        r = fd_set_nonblocking(fd, true);
        if (r == 0 && setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &(int) { 1 }, sizeof(int)) < 0)
                r = -errno;
        if (r == 0 && broker_has_pidfds())
                (void) setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &(int) { 1 }, sizeof(int));
        if (r == 0)
                r = sd_event_add_io(broker->event, &connection->io, fd, EPOLLIN, on_message, connection);
        if (r >= 0)
                r = sd_event_add_time_relative(broker->event, &connection->timer, CLOCK_MONOTONIC, HELLO_TIMEOUT_US, 0,
                                               on_hello_timeout, connection);
        if (r < 0)
                connection_hang_up(connection, 0, NULL);
        return r < 0 ? r : 0;
}
