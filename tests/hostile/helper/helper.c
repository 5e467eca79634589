/* SPDX-License-Identifier: MIT */
/*
 * A source's helper that lies: pagebrokerd starts it as pagebroker-nbd, for --memory=NAME,source=nbd:HOW. It writes nonsense
 * wherever it may, until its broker ends.
 *
 *   nonsense   answers what nobody asked, with results that cannot be, and is here, gone and another one by turns
 *   silence    opens its source, and answers nothing
 *   flood      as silence, and never stops talking on its socket
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "protocol/helper.h"

#define SOURCE_SIZE (16ull << 20)

static uint64_t state = 88172645463325252ull;

static uint64_t any(void) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
}

static void say_opened(void) {
        struct pb_helper_opened opened = { .magic = PB_HELPER_MAGIC,
                                           .depth = 8,
                                           .size = SOURCE_SIZE,
                                           .flags = PB_HELPER_WANTS_INSTALLED,
                                           .text = "a liar" };

        if (send(PB_HELPER_SOCKET_FD, &opened, sizeof opened, MSG_NOSIGNAL) != sizeof opened)
                _exit(1);
}

static struct pb_helper_memory *await_memory(size_t *ret_size) {
        struct pb_helper_memory *memory;
        struct stat st;
        char word[sizeof(struct pb_helper_packet)];

        if (recv(PB_HELPER_SOCKET_FD, word, sizeof word, 0) <= 0 || fstat(PB_HELPER_MEMORY_FD, &st) < 0)
                _exit(1);
        *ret_size = (size_t) st.st_size;
        memory = mmap(NULL, *ret_size, PROT_READ | PROT_WRITE, MAP_SHARED, PB_HELPER_MEMORY_FD, 0);
        if (memory == MAP_FAILED)
                _exit(1);
        return memory;
}

static void write_nonsense(struct pb_helper_memory *memory, size_t size) {
        static const int results[] = { INT_MAX, INT_MIN, -1, 0, 1, 4095, 4097, (256 << 10) + 1, -EAGAIN, 4096 };

        memory->state = (uint32_t) any() % 5;
        memory->map_known = (uint32_t) any();
        memory->depth = (uint32_t) any();
        memory->size = any();
        memory->buffers_offset = memory->zero_map_offset = memory->memory_size = any();
        memory->finish_offset = memory->finish_length = any();
        memory->finished = (uint32_t) any() % 2;
        memset(memory->identity, 'x', sizeof memory->identity);
        for (unsigned slot = 0; slot < PB_HELPER_SLOTS; slot++)
                memory->slots[slot] = (struct pb_helper_slot) { any(), (uint32_t) any(), results[any() % 10] };
        for (unsigned word = 0; word < PB_HELPER_WORDS; word++) {
                __atomic_store_n(&memory->submitted[word], any(), __ATOMIC_SEQ_CST);
                __atomic_store_n(&memory->forgotten[word], any(), __ATOMIC_SEQ_CST);
                __atomic_store_n(&memory->owned[word], any() | any(), __ATOMIC_SEQ_CST);
                __atomic_store_n(&memory->done[word], any(), __ATOMIC_SEQ_CST);
        }
        /* The map of zero pages is at the end. */
        ((unsigned char *) memory)[size - 1 - any() % (SOURCE_SIZE / 4096 / 8)] = (unsigned char) any();
        (void) !write(PB_HELPER_WAKE_FD, &(uint64_t) { any() % 2 ? 1 : UINT64_MAX - 1 }, sizeof(uint64_t));
}

static void talk(void) {
        static char packet[64];

        while (send(PB_HELPER_SOCKET_FD, packet, sizeof packet, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
                (void) 0;
}

/* Its end is the broker's. It reads nothing, but in silence. */
static int broker_has_ended(int timeout_ms) {
        struct pollfd p = { .fd = PB_HELPER_SOCKET_FD };

        (void) poll(&p, 1, timeout_ms);
        return p.revents & (POLLHUP | POLLERR);
}

int main(int argc, char **argv) {
        const char *how = argc > 4 ? argv[4] : "";
        struct pb_helper_memory *memory;
        size_t size;

        say_opened();
        memory = await_memory(&size);
        while (!broker_has_ended(strcmp(how, "silence") == 0 ? -1 : 0)) {
                if (strcmp(how, "nonsense") == 0)
                        write_nonsense(memory, size);
                if (strcmp(how, "silence") != 0)
                        talk();
                if (strcmp(how, "flood") != 0) /* it is not about who has more processors */
                        (void) nanosleep(&(struct timespec) { .tv_nsec = 100000 }, NULL);
        }
        return 0;
}
