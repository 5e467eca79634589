/* SPDX-License-Identifier: MIT */
#include "client/run/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "common/cleanup.h"

#define PROGRAM_HEADERS_MAX 128

static bool has_interpreter(int fd, const Elf64_Ehdr *header) {
        Elf64_Phdr segment;

        if (header->e_phentsize != sizeof segment || header->e_phnum > PROGRAM_HEADERS_MAX)
                return false;
        for (unsigned i = 0; i < header->e_phnum; i++) {
                off_t offset = (off_t) (header->e_phoff + i * sizeof segment);

                if (pread(fd, &segment, sizeof segment, offset) != sizeof segment)
                        return false;
                if (segment.p_type == PT_INTERP)
                        return true;
        }
        return false;
}

/* The dynamic linker drops LD_PRELOAD where exec() gives rights (AT_SECURE). */
static bool gains_rights(int fd) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return false;
        if ((st.st_mode & S_ISUID && st.st_uid != geteuid()) || (st.st_mode & S_ISGID && st.st_gid != getegid()))
                return true;
        return geteuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0;
}

const char *program_why_not(const char *path) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        Elf64_Ehdr header;

        if (fd < 0)
                return NULL; /* unreadable need not be unexecutable: exec() says what is wrong */
        if (gains_rights(fd))
                return "is set-user-ID, set-group-ID or has file capabilities: the dynamic linker ignores LD_PRELOAD "
                       "for it";
        if (pread(fd, &header, sizeof header, 0) != sizeof header || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
                return NULL; /* a script: its interpreter passes everything on */
        if (header.e_ident[EI_CLASS] != ELFCLASS64)
                return "is a 32-bit program: the preload library is not";
        if (!has_interpreter(fd, &header))
                return "is statically linked: LD_PRELOAD does not reach it";
        return NULL;
}

int program_find(const char *name, char **ret) {
        const char *path = getenv("PATH") ?: "/usr/local/bin:/usr/bin:/bin";

        if (strchr(name, '/')) {
                *ret = strdup(name);
                return *ret ? 0 : -ENOMEM;
        }
        while (*path) {
                size_t length = strcspn(path, ":");
                _cleanup_free_ char *candidate = NULL;

                if (asprintf(&candidate, "%.*s/%s", length > 0 ? (int) length : 1, length > 0 ? path : ".", name) < 0)
                        return -ENOMEM;
                if (access(candidate, X_OK) == 0) {
                        *ret = PTR_TAKE(candidate);
                        return 0;
                }
                path += length + (path[length] == ':');
        }
        return -ENOENT;
}
