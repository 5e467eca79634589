/* SPDX-License-Identifier: MIT */
/* pb_get_fd() and pb_reap(). */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/client.h"
#include "client/completion.h"
#include "client/resume.h"
#include "client/slot.h"

static int fail(pb_client *client, enum failure_call call, int error) {
        return failure_record(&client->failures, &(struct failure) { call, error });
}

int pb_get_fd(pb_client *client) {
        int r = client_check(client);

        if (r < 0)
                return r;
        return client->ring ? client->poll_fd : fail(client, FAILURE_GET_FD, -EACCES);
}

/* Bytes before entries: a byte that is taken after its entry was looked for would be an announcement thrown away. What
 * a broker could send without end is not read without end; what stays keeps the descriptor readable. */
static bool drain_announcements(pb_client *client) {
        char bytes[512];
        uint64_t count;

        (void) read(client->leftover_fd, &count, sizeof count);
        (void) read(client->timer_fd, &count, sizeof count);
        for (unsigned i = 0; i < 16; i++) {
                ssize_t n = recv(client->completion, bytes, sizeof bytes, MSG_DONTWAIT);

                if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                        return false;
                if (n != sizeof bytes)
                        break;
        }
        return true;
}

static unsigned collect(pb_client *client, struct pb_completion *ret, unsigned max) {
        unsigned n = 0;

        for (unsigned i = 0; i < CLIENT_BITMAP_WORDS; i++) {
                uint64_t bits = __atomic_load_n(&client->request_done[i], __ATOMIC_ACQUIRE);

                for (; bits != 0 && n < max; bits &= bits - 1) {
                        unsigned request = i * 64 + (unsigned) __builtin_ctzll(bits);

                        if (!bitmap_clear(client->request_done, request))
                                continue;
                        ret[n++] = (struct pb_completion) {
                                .cookie = client->requests[request].cookie,
                                .result = client->requests[request].result,
                        };
                        (void) bitmap_clear(client->request_busy, request);
                }
        }
        return n;
}

static bool any_done(const pb_client *client) {
        for (unsigned i = 0; i < CLIENT_BITMAP_WORDS; i++)
                if (__atomic_load_n(&client->request_done[i], __ATOMIC_ACQUIRE) != 0)
                        return true;
        return false;
}

/* Without waiting: an event loop calls. False: the broker is gone for good. */
static bool look_after_broker(pb_client *client) {
        uint32_t generation = client_generation(client);

        if (!drain_announcements(client))
                client_note_lost(client, generation);
        if (client_is_lost(client))
                (void) client_resume(client, 0);
        return !client_is_dead(client);
}

int pb_reap(pb_client *client, struct pb_completion *ret_completions, unsigned max) {
        bool alive;
        unsigned n;
        int r = client_check(client);

        if (r < 0)
                return r;
        if (!client->ring)
                return fail(client, FAILURE_REAP, -EACCES);
        if (max > INT32_MAX)
                max = INT32_MAX;
        alive = look_after_broker(client);
        (void) completion_harvest(client);
        if (!alive)
                completion_fail_all(client);
        n = collect(client, ret_completions, max);
        /* The announcements of what stays have been taken: announce anew. */
        if (any_done(client))
                completion_signal_leftovers(client);
        if (n == 0 && max > 0 && !alive)
                return fail(client, FAILURE_REAP, -ECONNRESET);
        return (int) n;
}
