/* SPDX-License-Identifier: MIT */
#include "broker/isolate.h"

#include <string.h>
#include <sys/resource.h>

#include "broker/peer.h"
#include "common/log.h"
#include "common/privileges.h"
#include "seccomp/filter.h"

int isolate_identity(const char *user) {
        return privileges_drop(user);
}

int isolate_seal(void) {
        int r = seccomp_apply(&seccomp_profile_broker);

        if (r < 0)
                log_error("cannot load the system-call filter: %s; --seccomp=off goes on without it", strerror(-r));
        return r;
}

void isolate_raise_descriptors(unsigned n_clients) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        /* Control socket, pidfd, doorbell, completion socket; a userfaultfd with its eventfd and a call's reply. */
        rlim_t wanted = 256 + (rlim_t) n_clients * 8 + 3 * PEERS_MAX;

        if (limit.rlim_cur >= wanted)
                return;
        /* Beyond the hard limit with CAP_SYS_RESOURCE, which is still there. */
        if (wanted > limit.rlim_max && setrlimit(RLIMIT_NOFILE, &(struct rlimit) { wanted, wanted }) == 0)
                return;
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < wanted)
                log_notice("only %llu descriptors allowed (RLIMIT_NOFILE); %u clients (--client-limit) may need %llu, and who "
                           "comes when none is left is refused",
                           (unsigned long long) limit.rlim_cur, n_clients, (unsigned long long) wanted);
}
