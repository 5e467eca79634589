/* SPDX-License-Identifier: MIT */
/*
 * Asynchronous requests: outcome, completion queue, byte on the completion socket (PROTOCOL.md, "Session ring";
 * order_completion_*()). One event loop with two slots that submits three requests and sleeps in poll() in between. The
 * socket holds one byte (a full socket drops the next one, EAGAIN), and the broker may send one byte for several
 * entries.
 *
 *  FREE_BY_OUTCOME   the client uses a slot again when its outcome is final, before its entry has been read
 *  DRAIN_AFTER       the client reads the queue, then drains the socket
 *  TAKE_ONE          the client drains the socket and takes one entry only
 *  BYTE_PER_ENTRY    the client reads one byte for each entry that it takes
 *  BYTE_FIRST        the broker sends the byte before the entry is there
 *  TAIL_FIRST        the tail may become visible before the entry (no release)
 *  ENTRY_FIRST       the entry is posted before the outcome is stored
 */
#define TOTAL 3

byte outcome[2];                /* 0: none yet; else the number of the request that is decided */
byte entries[2], tail;          /* free-running */
byte socket;

byte pushed[2];                 /* number of the request in the slot, 0: nothing to take */
byte used[2];                   /* client's own: number of the request, 0: free */
byte head, submitted, reaped;

inline reap() {
        s = entries[head % 2];
        atomic {
                assert(used[s] != 0);                   /* else the entry stands for nothing */
                assert(outcome[s] == used[s]);          /* else for another request, or one without outcome */
                head++;
                reaped++;
                used[s] = 0;
                s = 0
        }
}

inline drain() {
        socket = 0
}

proctype client() {
        byte s;

        do
        :: submitted < TOTAL && (used[0] == 0 || used[1] == 0) ->
                atomic {
                        if :: used[0] == 0 -> s = 0 :: used[1] == 0 -> s = 1 fi;
                        submitted++;
                        used[s] = submitted;
                        pushed[s] = submitted;
                        s = 0
                }
#ifdef FREE_BY_OUTCOME
        :: atomic { used[0] && outcome[0] == used[0] -> used[0] = 0 }
#endif
        :: reaped == TOTAL -> break
        :: reaped < submitted ->
                (socket > 0);                           /* poll() */
#ifdef BYTE_PER_ENTRY
                socket--;
                if :: head != tail -> reap() :: else fi
#elif defined(TAKE_ONE)
                drain();
                if :: head != tail -> reap() :: else fi
#elif defined(DRAIN_AFTER)
                do :: head != tail -> reap() :: else -> break od;
                drain()
#else
                drain();
                do :: head != tail -> reap() :: else -> break od
#endif
        od
}

inline send() {
        atomic { if :: socket == 0 -> socket = 1 :: else fi }
}

inline post(s) {
#ifdef TAIL_FIRST
        if
        :: entries[tail % 2] = s; tail++
        :: tail++; entries[(tail - 1) % 2] = s
        fi
#else
        entries[tail % 2] = s;
        tail++
#endif
}

inline decide(s) {
        x = pushed[s];
        pushed[s] = 0;
#ifdef BYTE_FIRST
        send();
#endif
#ifdef ENTRY_FIRST
        post(s);
        outcome[s] = x;
#else
        outcome[s] = x;
        post(s);
#endif
        assert(tail - head <= 2);                       /* the queue cannot overflow */
        announce = 1;
        x = 0
}

active proctype pager() {
        byte x;
        bit announce;

end:
        do
        :: pushed[0] -> decide(0)
        :: pushed[1] -> decide(1)
        :: announce ->
                announce = 0;
#ifndef BYTE_FIRST
                send()
#endif
        od
}

init { run client() }
