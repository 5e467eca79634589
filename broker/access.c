/* SPDX-License-Identifier: MIT */
#include "broker/access.h"

#include <errno.h>

#include "broker/account.h"
#include "broker/broker.h"

/* #syscalls:broker getsockopt */

#define GROUPS_MAX 1024u

/* Supplementary groups are those of who connected: they count for a sender of HELLO only if he is the same user. */
static bool is_in_group(const struct ucred *who, int fd, gid_t gid) {
        struct ucred peer = { .uid = (uid_t) -1 };
        gid_t groups[GROUPS_MAX];
        socklen_t size = sizeof groups;

        if (who->gid == gid)
                return true;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t) { sizeof peer }) < 0 || peer.uid != who->uid ||
            getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
                return false;
        for (size_t i = 0; i < size / sizeof groups[0]; i++)
                if (groups[i] == gid)
                        return true;
        return false;
}

bool access_is_granted(const struct broker *broker, enum pb_role role, const struct ucred *who, int fd) {
        const struct options *options = broker->options;

        /* What keeps a read-only client from re-opening the memfd for writing is the inode's mode, 0600: it holds against
         * another uid only. */
        if (role == PB_AS_DEVICE_RO && (who->uid == 0 || who->uid == broker->uid || who->uid == broker->own_uid))
                return false;
        for (unsigned i = 0; i < options->n_allow; i++) {
                const struct option_allow *allow = &options->allow[i];

                if (allow->role != role)
                        continue;
                if (allow->is_group ? is_in_group(who, fd, allow->gid) : allow->uid == who->uid)
                        return true;
        }
        if (options->n_allow > 0 || role == PB_AS_DEVICE_RO)
                return false;
        return who->uid == 0 || who->uid == broker->uid;
}

uid_t access_account(const struct broker *broker, const struct ucred *who, int fd) {
        for (unsigned role = PB_AS_DEVICE; role <= PB_AS_OBSERVER; role++)
                if (access_is_granted(broker, (enum pb_role) role, who, fd))
                        return who->uid;
        return ACCOUNT_STRANGERS;
}
