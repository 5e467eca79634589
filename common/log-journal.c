/* SPDX-License-Identifier: MIT */
#include "common/log-journal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/log.h"
#include "common/macro.h"

/* #syscalls:broker sendmsg */

struct entry {
        char bytes[2048];
        size_t length;
};

/* "KEY=value\n". A value must not have a line break in it; what peers have a hand in may hold anything. */
static void add(struct entry *entry, const char *key, const char *value) {
        size_t room = sizeof entry->bytes - entry->length;
        char *start = entry->bytes + entry->length, *p;
        int n;

        if (!value || !*value)
                return;
        n = snprintf(start, room, "%s=%s", key, value);
        if (n < 0 || (size_t) n + 1 >= room)
                return;
        for (p = start; *p; p++)
                if ((unsigned char) *p < ' ' || *p == 0x7f)
                        *p = '?';
        *p = '\n';
        entry->length += (size_t) n + 1;
}

int log_journal_open(void) {
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        return fd < 0 ? -errno : fd;
}

int log_journal_send(int fd, const char *path, int level, const char *program, const char *name,
                     const struct log_event *event, const char *text) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        struct entry entry = {};
        struct iovec iov = { .iov_base = entry.bytes };
        const struct msghdr message = { .msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &iov, .msg_iovlen = 1 };

        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
        add(&entry, "MESSAGE", text);
        add(&entry, "PRIORITY", (char[]) { (char) ('0' + (level & 7)), 0 });
        add(&entry, "SYSLOG_IDENTIFIER", program);
        add(&entry, "PAGEBROKER_VM", name);
        if (event) {
                add(&entry, "MESSAGE_ID", event->id);
                add(&entry, "PAGEBROKER_CLIENT", event->client);
                add(&entry, "PAGEBROKER_MEMORY", event->memory);
        }
        iov.iov_len = entry.length;
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}
