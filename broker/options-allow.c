/* SPDX-License-Identifier: MIT */
#include "broker/options-allow.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "broker/options-value.h"
#include "broker/options.h"
#include "common/macro.h"

static_assert(sizeof(uid_t) == sizeof(uint32_t) && sizeof(gid_t) == sizeof(uint32_t), "one reader for both");

static bool is_id(const char *text, uint32_t *ret) {
        unsigned long number;
        char *end;

        errno = 0;
        number = strtoul(text, &end, 10);
        if (*end || errno || number >= UINT32_MAX || !isdigit((unsigned char) *text))
                return false;
        *ret = (uint32_t) number;
        return true;
}

/* A name or a number. */
static int parse_user(const char *text, uid_t *ret) {
        const struct passwd *user;

        if (is_id(text, ret))
                return 0;
        user = getpwnam(text);
        if (!user)
                return complain("--allow: '%s': no such user", text);
        *ret = user->pw_uid;
        return 0;
}

static int parse_group(const char *text, gid_t *ret) {
        const struct group *group;

        if (is_id(text, ret))
                return 0;
        group = getgrnam(text);
        if (!group)
                return complain("--allow: '@%s': no such group", text);
        *ret = group->gr_gid;
        return 0;
}

int parse_allow(struct options *options, char *text) {
        static const struct {
                const char *name;
                enum pb_role role;
        } roles[] = {
                { "vmm", PB_AS_VMM },
                { "device", PB_AS_DEVICE },
                { "device-ro", PB_AS_DEVICE_RO },
                { "observer", PB_AS_OBSERVER },
        };
        struct option_allow allow = {};
        char *colon = strchr(text, ':');
        int r;

        if (options->n_allow == ALLOW_MAX)
                return complain("--allow: at most %u", ALLOW_MAX);
        if (!colon || !colon[1])
                return complain("--allow: '%s': expected ROLE:USER or ROLE:@GROUP, for instance device:1000", text);
        *colon = 0;
        allow.is_group = colon[1] == '@';
        r = allow.is_group ? parse_group(colon + 2, &allow.gid) : parse_user(colon + 1, &allow.uid);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTS(roles); i++)
                if (strcmp(roles[i].name, text) == 0) {
                        allow.role = roles[i].role;
                        if (allow.role == PB_AS_DEVICE_RO && !allow.is_group && allow.uid == 0)
                                return complain("--allow: device-ro is never granted to root, who could open the memory "
                                                "for writing anyway");
                        options->allow[options->n_allow++] = allow;
                        return 0;
                }
        return complain("--allow: '%s': roles are vmm, device, device-ro, observer", text);
}
