/* SPDX-License-Identifier: MIT */
/* A vhost-user front-end: says what a test tells it to, right or wrong. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "examples/vhost-user-blk/vhost-user-protocol.h"

#define VMM_USER_BASE 0x7f1200000000ull /* where it pretends to have guest address 0 */

/* Waits until the device listens. */
int vmm_connect(const char *path);

/* One message; a lie in `header.size` is sent as it is, `size` bytes of payload follow. False: the device hung up. */
bool vmm_send_raw(int socket, const struct vu_header *header, const void *payload, size_t size, const int *fds,
                  unsigned n_fds);
bool vmm_send(int socket, uint32_t request, uint32_t flags, const void *payload, size_t size, const int *fds,
              unsigned n_fds);

/* The reply's payload, of exactly `size` bytes. Fails the test if there is none. */
void vmm_receive(int socket, uint32_t request, void *payload, size_t size);

/* Waits until the device has hung up, whatever it sends before. False if it does not. */
bool vmm_is_hung_up(int socket);

uint64_t vmm_get(int socket, uint32_t request);

/* Sends with NEED_REPLY (negotiated by vmm_negotiate()); true if the device accepted. */
bool vmm_call(int socket, uint32_t request, const void *payload, size_t size, const int *fds, unsigned n_fds);
bool vmm_call_u64(int socket, uint32_t request, uint64_t value);
bool vmm_call_state(int socket, uint32_t request, unsigned index, unsigned num);

/* Up to SET_FEATURES; asks for `features` and those of vhost-user. */
void vmm_negotiate(int socket, uint64_t features);

bool vmm_set_memory(int socket, const struct vu_region *regions, unsigned n, const int *fds);
