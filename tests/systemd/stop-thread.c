/* SPDX-License-Identifier: MIT */
/* usage: stop-thread PID NAME: stops that thread of the process, and no other, until the process is killed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/thread.h"

int main(int argc, char *argv[]) {
        pid_t tid = argc == 3 ? thread_find((pid_t) atoi(argv[1]), argv[2]) : -1;
        int r;

        if (tid < 0) {
                fprintf(stderr, "stop-thread: no such thread\n");
                return 2;
        }
        r = thread_stop(tid);
        if (r == 0)
                r = thread_wait_killed(tid);
        if (r < 0)
                fprintf(stderr, "stop-thread: %s\n", strerror(-r));
        return r < 0;
}
