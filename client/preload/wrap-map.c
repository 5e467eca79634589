/* SPDX-License-Identifier: MIT */
/* mmap() and what undoes or moves it. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include "client/preload/next.h"
#include "client/preload/preload.h"
#include "client/preload/wrap.h"

static void *refuse(int error, const char *why) {
        preload_say("refused a mapping of guest memory: %s", why);
        errno = error;
        return MAP_FAILED;
}

/*
 * First without any access, then registered, then with the access that was asked for: in between nobody can touch it,
 * no thread that knows the address of a MAP_FIXED mapping, and not the kernel either, which would otherwise fill it
 * with zero pages for MAP_POPULATE, MAP_LOCKED and after mlockall(MCL_FUTURE).
 */
static void *map_registered(unsigned memory, void *address, size_t length, int protection, int flags, int fd,
                            off_t offset) {
        uint64_t extent;
        void *p;
        int r;

        r = preload_extent(memory, (uint64_t) offset, length, &extent);
        if (r < 0) {
                errno = -r;
                return MAP_FAILED;
        }
        if (!mapping_has_room(preload_mappings()))
                return refuse(ENOMEM, "too many mappings of it");
        p = next_mmap(address, length, PROT_NONE, flags & ~MAP_POPULATE, fd, offset);
        if (p == MAP_FAILED)
                return p;
        r = preload_register(memory, (uintptr_t) p, extent, (uint64_t) offset);
        if (r >= 0 && protection != PROT_NONE && mprotect(p, length, protection) < 0)
                r = -errno;
        if (r < 0) {
                (void) next_munmap(p, length);
                preload_forget((uintptr_t) p, extent);
                errno = -r;
                return MAP_FAILED;
        }
        mapping_add(preload_mappings(), &(struct mapping) { .start = (uintptr_t) p,
                                                            .end = (uintptr_t) p + extent,
                                                            .offset = (uint64_t) offset,
                                                            .memory = memory });
        return p;
}

static void *map_guest(unsigned memory, void *address, size_t length, int protection, int flags, int fd, off_t offset) {
        void *p;

        if ((flags & MAP_TYPE) == MAP_PRIVATE)
                return refuse(EOPNOTSUPP,
                              "a private mapping would show zeros where pages have not come yet, and nobody "
                              "else would see what is written to it; map it MAP_SHARED (QEMU: share=on)");
        if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
                return refuse(EACCES, "the kernel puts no mapping of a read-only descriptor under userfaultfd; open it "
                                      "for reading and writing");
        if (flags & MAP_POPULATE)
                preload_say("MAP_POPULATE is left out for guest memory: pages come when they are touched");
        preload_lock();
        p = map_registered(memory, address, length, protection, flags, fd, offset);
        preload_unlock();
        return p;
}

static void forget(void *address, size_t length) {
        preload_lock();
        preload_forget((uintptr_t) address, length);
        preload_unlock();
}

EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
        bool replaces = flags & MAP_FIXED && preload_is_guest(address, length);
        void *p;

        if (!(flags & MAP_ANONYMOUS) && fd >= 0 && preload_is_active()) {
                int memory = preload_find_memory(fd);

                if (memory >= 0)
                        return map_guest((unsigned) memory, address, length, protection, flags, fd, offset);
        }
        p = next_mmap(address, length, protection, flags, fd, offset);
        if (replaces && p != MAP_FAILED)
                forget(address, align_up(length, PAGE_SIZE));
        return p;
}

EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
        return mmap(address, length, protection, flags, fd, offset);
}

EXPORT int munmap(void *address, size_t length) {
        int r;

        if (!preload_is_guest(address, length))
                return next_munmap(address, length);
        preload_lock();
        if (mapping_has_room(preload_mappings())) {
                r = next_munmap(address, length);
                if (r == 0)
                        preload_forget((uintptr_t) address, align_up(length, PAGE_SIZE));
        } else {
                errno = ENOMEM;
                r = -1;
        }
        preload_unlock();
        return r;
}

/* The kernel takes a mapping that moves out of its userfaultfd, so only shrinking in place is harmless. */
EXPORT void *mremap(void *address, size_t old_length, size_t new_length, int flags, ...) {
        void *new_address = NULL;

        if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
                va_list ap;

                va_start(ap, flags);
                new_address = va_arg(ap, void *);
                va_end(ap);
        }
        if (preload_is_guest(address, old_length ?: 1)) {
                if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) || new_length > old_length || new_length == 0)
                        return refuse(ENOMEM, "mremap() would move it out of the broker's sight");
                new_length = align_up(new_length, PAGE_SIZE);
                old_length = align_up(old_length, PAGE_SIZE);
                if (new_length < old_length && munmap((char *) address + new_length, old_length - new_length) < 0)
                        return MAP_FAILED;
                return address;
        }
        return next_mremap(address, old_length, new_length, flags, new_address);
}
