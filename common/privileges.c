/* SPDX-License-Identifier: MIT */
#include "common/privileges.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"

static int drop_capabilities(void) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};

        (void) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        /* Fails where we have no right to; then there is nothing to drop either. */
        for (unsigned long cap = 0; cap < 64; cap++)
                if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                        break;
        return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

static int become(const char *user) {
        unsigned long number;
        struct passwd *pw;
        char *end;
        uid_t uid;
        gid_t gid;

        errno = 0;
        number = strtoul(user, &end, 10);
        /* (uid_t) -1 means "leave as it is" to setresuid(). */
        if (isdigit((unsigned char) *user) && !*end && errno == 0 && number < UINT32_MAX)
                uid = gid = (uid_t) number;
        else {
                pw = getpwnam(user);
                if (!pw) {
                        log_error("--user=%s: no such user", user);
                        return -ESRCH;
                }
                uid = pw->pw_uid;
                gid = pw->pw_gid;
        }
        if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0) {
                log_error("--user=%s: %s; only root can become another user", user, strerror(errno));
                return -errno;
        }
        return 0;
}

int privileges_drop(const char *user) {
        int r = user ? become(user) : 0;

        if (r < 0)
                return r;
        r = drop_capabilities();
        if (r < 0) {
                log_error("cannot drop capabilities: %s", strerror(-r));
                return r;
        }
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
                log_error("cannot set no_new_privs: %s", strerror(errno));
                return -errno;
        }
        return 0;
}
