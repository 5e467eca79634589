/* SPDX-License-Identifier: MIT */
/* Scattered buffers. The caller has ensured every byte of them. */
#pragma once

#include <stddef.h>
#include <sys/uio.h>

/* Copies the first `len` bytes out and cuts them off. Returns how many there were. */
size_t iov_take(struct iovec *iov, unsigned *n, void *data, size_t len);
/* Copies in. Returns how many bytes there was room for. */
size_t iov_put(const struct iovec *iov, unsigned n, const void *data, size_t len);
/* Cuts the last byte off. */
void iov_cut_last(struct iovec *iov, unsigned *n);
