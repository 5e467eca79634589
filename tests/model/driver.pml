/* SPDX-License-Identifier: MIT */
/*
 * How a request that waits for pages comes back to the thread that drives it (broker/request.c): parking, the inbox,
 * the `signalled` word and the eventfd. One request of three slices with two waits; two publishing threads; the
 * driver. The publishers settle waits in any order, concurrently. A request that never comes back shows up as an
 * invalid end state, a request that comes back twice or is touched after it was freed as an assertion.
 *
 *  FORGET           the request's owner goes at any time (right)
 *  SELF             the driver itself may settle a wait at the end of its turn: a late read, a poison (right)
 *  NO_LOOK          the driver does not look at `signalled` before it sleeps (right, but for SELF and DRAIN_LATE)
 *
 *  NO_BIAS          a request that is being issued is not held by a count of the driver's
 *  ACTIVE_LATE      a publisher gives the wait back after it has counted it
 *  PUSH_AGAIN       a publisher pushes the request when the count is 0 or less, not when it becomes 0
 *  SIGNAL_FIRST     a publisher signals, then pushes
 *  CLEAR_LATE       the driver takes its inbox, then clears `signalled`
 *  DRAIN_LATE       the driver reads its eventfd after it has taken the inbox (NO_LOOK)
 *  SELF_SILENT      the driver does not signal itself (SELF)
 *  FORGET_CROSSED   a request is freed at once though somebody is about to push it into the inbox (FORGET)
 */
#define WINDOW 2
#define SLICES 3
#ifdef NO_BIAS
#define OWNED 0
#else
#define OWNED 20
#endif

short outstanding = OWNED;
bit in_use[2];                  /* in use; given back by the publisher */
bit linked[2];                  /* in its slice; under the shard's lock */
byte left = SLICES;
bit parked, forgotten, done;
short parked_at;
byte inbox;
bit signalled, eventfd;

/* The driver does not write its own eventfd: it looks at the flag before it sleeps. */
inline signal(self) {
        atomic {
                quiet = signalled || self;
                signalled = 1
        }
        if :: !quiet -> eventfd = 1 :: else fi;
        quiet = 0
}

inline push() {
        atomic { assert(inbox == 0 && !done); inbox++ }
}

inline give_back(w) {
        atomic { assert(!done && in_use[w]); in_use[w] = 0 }
}

/* Leaves what the count became in `last`. */
inline wait_done(w) {
#ifndef ACTIVE_LATE
        give_back(w);
#endif
        atomic { assert(!done); outstanding--; last = outstanding };
#ifdef ACTIVE_LATE
        give_back(w);
#endif
        skip
}

#ifdef PUSH_AGAIN
#define CROSSED (last <= 0)
#else
#define CROSSED (last == 0)
#endif

inline push_and_signal(self) {
#ifdef SIGNAL_FIRST
        signal(self);
        push()
#else
        push();
        signal(self)
#endif
}

proctype publisher() {
        byte w;
        short last;
        bit quiet;

end:
        do
        :: atomic {
                if
                :: linked[0] -> w = 0
                :: linked[1] -> w = 1
                fi;
                linked[w] = 0                   /* settled, under the lock */
        }
        wait_done(w);
        if :: CROSSED -> push_and_signal(0) :: else fi;
        w = 0; last = 0
        od
}

#define MORE 0
#define PARKED 1
#define DECIDED 2

inline park() {
        atomic {
                parked_at = (left > 0 && !forgotten -> WINDOW / 2 : 0);
                parked = 1
        }
        atomic {
                outstanding = outstanding - (OWNED + parked_at);
                step = (outstanding > 0 -> PARKED : DECIDED)
        }
        if
        :: step == PARKED
        :: else ->
                atomic {
                        outstanding = outstanding + (OWNED + parked_at);
                        parked = 0;
                        step = (left > 0 && !forgotten -> MORE : DECIDED)
                }
        fi
}

inline resume() {
        atomic {
                assert(parked || OWNED == 0);
                outstanding = outstanding + (OWNED + parked_at);
                parked = 0;
                step = MORE
        }
        if :: left == 0 || forgotten -> park() :: else fi
}

/* One slice a turn: wants it, waits for it unless it is present. */
inline issue() {
        assert(!parked);
        if
        :: left == 0 || forgotten -> park()
        :: else ->
                if
                :: in_use[0] && in_use[1] -> park()
                :: !in_use[0] || !in_use[1] ->
                        w = (in_use[0] -> 1 : 0);
                        left--;
                        atomic { outstanding++ }
                        if
                        :: atomic { in_use[w] = 1; linked[w] = 1 }
                        :: atomic { outstanding-- }     /* present */
                        fi;
                        w = 0;
                        step = MORE;
                        if :: left == 0 -> park() :: else fi
                fi
        fi
}

inline forget_wait(i) {
        atomic {
                if
                :: in_use[i] && linked[i] -> linked[i] = 0; mine = 1
                :: else -> mine = 0
                fi
        }
        if :: mine -> in_use[i] = 0; atomic { outstanding-- } mine = 0 :: else fi
}

inline forget() {
        forgotten = 1;
        atomic {
                if
                :: parked -> crossed = (outstanding <= 0); outstanding = outstanding + (OWNED + parked_at)
                :: else -> crossed = 0
                fi
        }
        forget_wait(0);
        forget_wait(1);
#ifdef FORGET_CROSSED
        crossed = 0;
#endif
        if
        :: crossed -> atomic { outstanding = outstanding - (OWNED + parked_at); step = PARKED; crossed = 0 }
        :: else -> parked = 0; park()
        fi
}

proctype driver() {
        byte step, w, any;
        short last;
        bit mine, crossed, quiet;

        do
        :: true ->
                any = 0;
#ifndef CLEAR_LATE
                signalled = 0;
#endif
                if
                :: atomic { inbox > 0 -> inbox--; any = 1 } resume()
                :: atomic { inbox == 0 -> skip }
                fi;
#ifdef CLEAR_LATE
                signalled = 0;
#endif
#ifdef DRAIN_LATE
                eventfd = 0;
#endif
                if :: step == MORE -> issue(); any = 1 :: else fi;
#ifdef FORGET
                if
                :: step != DECIDED && !forgotten -> forget(); any = 1
                :: true
                fi;
#endif
                if :: step == DECIDED -> break :: else fi;
#ifdef SELF
                if
                :: atomic { linked[0] -> linked[0] = 0 }
                        wait_done(0);
#ifdef SELF_SILENT
                        if :: CROSSED -> push() :: else fi;
#else
                        if :: CROSSED -> push_and_signal(1) :: else fi;
#endif
                        last = 0
                :: true
                fi;
#endif
                if
                :: any || step == MORE
#ifndef NO_LOOK
                :: !any && step != MORE && signalled
                :: !any && step != MORE && !signalled ->
#else
                :: else ->
#endif
                        (eventfd);
#ifndef DRAIN_LATE
                        eventfd = 0
#endif
                fi
        od;
        atomic {
                done = 1;
                assert(!in_use[0] && !in_use[1] && !linked[0] && !linked[1]);
                assert(inbox == 0)
        }
}

init {
        atomic {
                run driver();
                run publisher();
                run publisher()
        }
}
