/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>

#include "client/pagebroker.h"
#include "common/cleanup.h"
#include "common/fd.h"
#include "complain.h"

int memory_open(struct memory *memory, const struct layout *layout) {
        void *addr;

        memory->fd = memfd_new("mini-vmm", layout->size, layout->page_size);
        if (memory->fd < 0)
                return complain(memory->fd, "cannot make guest memory of %" PRIu64 " MiB", layout->size >> 20);
        addr = mmap(NULL, layout->size, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd, 0);
        if (addr == MAP_FAILED)
                return complain(-errno, "cannot map guest memory of %" PRIu64 " MiB%s", layout->size >> 20,
                                layout->page_size != PB_PAGE_SIZE ? " (are enough huge pages reserved?)" : "");
        memory->addr = addr;
        memory->size = layout->size;
        for (unsigned i = 0; i < LAYOUT_REGIONS; i++) {
                memory->regions[i] = layout_get_region(layout, i);
                memory->regions[i].addr = (uint8_t *) addr + memory->regions[i].offset;
        }
        return 0;
}

void memory_close(struct memory *memory) {
        if (memory->addr)
                (void) munmap(memory->addr, memory->size);
        memory->fd = fd_close(memory->fd);
        memory->addr = NULL;
}
