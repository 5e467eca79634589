/* SPDX-License-Identifier: MIT */
#include "client/map.h"

#include <errno.h>
#include <sys/mman.h>

#include "common/macro.h"
#include "common/reserve.h"

/* A mapping without access cannot be filled, and mprotect() fills private mappings only. */
void *map_untouched(int fd, uint64_t size, int protection, int *ret_error) {
        /* Only a hint: pages that are huge from the start must be aligned more, and the kernel sees to that. */
        void *hint = size >= RESERVE_HUGE ? reserve_for_huge(size) : NULL, *addr;

        if (hint)
                (void) munmap(hint, size);
        addr = mmap(hint, size, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (addr != MAP_FAILED && madvise(addr, size, MADV_DONTFORK) >= 0 && mprotect(addr, size, protection) >= 0)
                return addr;
        *ret_error = errno == EACCES ? -EPROTO : -errno; /* a descriptor that does not allow what the role allows */
        if (addr != MAP_FAILED)
                (void) munmap(addr, size);
        return NULL;
}

static bool bitmap_fits(const struct pb_map_header *map, uint64_t offset, uint64_t map_size) {
        return offset >= PB_MAP_HEADER_SIZE && is_aligned(offset, PB_PAGE_BYTES) &&
               range_fits(offset, presence_bitmap_size(map->n_pages), map_size);
}

static int check_map(const struct pb_map_header *map, const struct link_memory *memory, uint64_t epoch) {
        if (map->magic != PB_MAP_MAGIC || map->header_size != PB_MAP_HEADER_SIZE)
                return -EPROTO;
        if (map->version != 1 || map->incompat != 0)
                return -EPROTONOSUPPORT;
        if (map->epoch != epoch || map->n_pages != memory->size / PB_PAGE_BYTES ||
            map->backing_size != memory->backing_size || map->map_size != memory->map_size ||
            !bitmap_fits(map, map->present_offset, memory->map_size) ||
            !bitmap_fits(map, map->poison_offset, memory->map_size))
                return -EPROTO;
        return 0;
}

int map_presence(const struct link_memory *memory, uint64_t epoch, const struct pb_map_header **ret) {
        const struct pb_map_header *map;
        int r = 0;

        map = map_untouched(memory->map_fd, memory->map_size, PROT_READ, &r);
        if (!map)
                return r;
        r = check_map(map, memory, epoch);
        if (r < 0) {
                (void) munmap((void *) map, memory->map_size);
                return r;
        }
        *ret = map;
        return 0;
}

int map_state(const struct link *link, const struct pb_session_state **ret) {
        const struct pb_session_state *state;
        int r = 0;

        state = map_untouched(link->session.state_fd, sizeof *state, PROT_READ, &r);
        if (!state)
                return r;
        if (state->magic != PB_STATE_MAGIC || state->version != 1 || state->n_slots != PB_RING_SLOTS ||
            state->epoch != link->epoch) {
                (void) munmap((void *) state, sizeof *state);
                return -EPROTO;
        }
        *ret = state;
        return 0;
}
