/* SPDX-License-Identifier: MIT */
#include "iov.h"

#include <string.h>

#include "common/macro.h"

size_t iov_take(struct iovec *iov, unsigned *n, void *data, size_t len) {
        size_t done = 0;
        unsigned used = 0;

        while (done < len && used < *n) {
                size_t piece = min_u64(len - done, iov[used].iov_len);

                memcpy((char *) data + done, iov[used].iov_base, piece);
                done += piece;
                iov[used].iov_base = (char *) iov[used].iov_base + piece;
                iov[used].iov_len -= piece;
                used += iov[used].iov_len == 0;
        }
        *n -= used;
        memmove(iov, &iov[used], *n * sizeof *iov);
        return done;
}

size_t iov_put(const struct iovec *iov, unsigned n, const void *data, size_t len) {
        size_t done = 0;

        for (unsigned i = 0; i < n && done < len; i++) {
                size_t piece = min_u64(len - done, iov[i].iov_len);

                memcpy(iov[i].iov_base, (const char *) data + done, piece);
                done += piece;
        }
        return done;
}

void iov_cut_last(struct iovec *iov, unsigned *n) {
        if (*n > 0 && --iov[*n - 1].iov_len == 0)
                (*n)--;
}
