/* SPDX-License-Identifier: MIT */
/*
 * Request slots: ready bits and a summary word (PROTOCOL.md, "Session ring"; order_request_push(),
 * order_request_take*(), order_outcome_*()). One session, two slots under one ready word, two client threads with two
 * pushes each; either may stop for ever in the middle of a push (killed, or interrupted by a handler that never
 * returns). Waiting is a plain wait for the outcome word: sleeping and the doorbell are wake.pml's part. What is lost
 * here stays lost, since nobody sets a summary bit a second time.
 *
 * A missing release or acquire is a free choice of the order of the two accesses.
 *
 *  NO_READY_RELEASE    the ready bit may become visible before the slot's fields
 *  NO_READY_ACQUIRE    the broker may have read the fields before the ready bit
 *  SUMMARY_FIRST       the client sets the summary bit before the ready bit
 *  READY_TAKEN_FIRST   the broker exchanges the ready word before the summary
 *  REUSE_EARLY         the client uses a slot again when its request has been taken, not decided
 *  SAME_SEQUENCE       the client uses a slot again with the sequence it had
 *  IN_ORDER            the broker takes requests in the order in which their slots were chosen, as a ring would
 *  NO_OUTCOME_RELEASE  the outcome may become visible before what it stands for
 *  NO_OUTCOME_ACQUIRE  the client may have looked at the page before the outcome
 *  SCRIBBLE            the client changes a field of its slots all the time (right)
 *  READ_TWICE          ... and the broker validates the field, then loads it again to use it
 *  TWO                 a second broker thread decides (right: the contract does not say which thread does)
 *  TAKEN_LATE          ... and "taken" is stored after the request was handed over
 *  FREE_LATE           ... and the broker's own note that the slot is in use is cleared after the outcome
 */
#define PUSHES 2
#define BIT(s) (1 << (s))
#define TAKEN(q) ((q) * 4 + 1)
#define FINAL(q) ((q) * 4 + 2)

byte used;                      /* client's own: slots in use */
byte sequence[2];               /* client's own: last one of each slot */
byte a[2], b[2];                /* two fields of each slot; both hold the sequence */
byte range_[2];                 /* a third one, which a hostile client changes at any time; more than 1 is outside */
byte ready, summary;
byte outcome[2];
byte page[2];                   /* what the outcome stands for: the last sequence served */

byte busy[2];                   /* broker's own: sequence under way */
byte handed[2];                 /* ... and handed to whoever decides it */
byte order_[2], order_tail, order_head;

#define MAY_STOP if :: mortal -> goto stopped :: true fi

proctype client(bool mortal) {
        byte s, n, q, seen;

        do
        :: n == PUSHES -> break
        :: n < PUSHES ->
                atomic {
                        if
                        :: !(used & 1) -> s = 0
                        :: !(used & 2) -> s = 1
                        fi;
                        used = used | BIT(s);
                        order_[s] = order_tail;
                        order_tail++;
#ifndef SAME_SEQUENCE
                        sequence[s]++;
#else
                        sequence[s] = 1;
#endif
                        q = sequence[s]
                }
                MAY_STOP;
#ifdef NO_READY_RELEASE
                if
                :: a[s] = q; b[s] = q; ready = ready | BIT(s)
                :: a[s] = q; ready = ready | BIT(s); b[s] = q
                fi;
                summary = 1;
#else
                a[s] = q;
                MAY_STOP;
                b[s] = q;
                MAY_STOP;
#ifdef SUMMARY_FIRST
                summary = 1;
                ready = ready | BIT(s);
#else
                ready = ready | BIT(s);
                MAY_STOP;
                summary = 1;
#endif
#endif
#ifdef REUSE_EARLY
                (outcome[s] == TAKEN(q) || outcome[s] == FINAL(q));
#elif defined(NO_OUTCOME_ACQUIRE)
                if
                :: seen = page[s]; (outcome[s] == FINAL(q))
                :: (outcome[s] == FINAL(q)); seen = page[s]
                fi;
                assert(seen == q);
#else
                (outcome[s] == FINAL(q));
                assert(page[s] == q);           /* a 0 without looking at the map is enough */
#endif
                atomic {
                        assert(busy[s] == 0 || busy[s] == q);
#ifdef SAME_SEQUENCE
                        page[s] = 0;            /* so that the next use is told from this one */
#endif
                        used = used & ~BIT(s);
                        n++;
                        seen = 0
                }
        od;
stopped:
        skip
}

inline decide(s) {
        atomic { (handed[s]); x = busy[s]; handed[s] = 0 }
#ifdef NO_OUTCOME_RELEASE
        if
        :: page[s] = x; atomic { busy[s] = 0; outcome[s] = FINAL(x) }
        :: atomic { busy[s] = 0; outcome[s] = FINAL(x) } page[s] = x
        fi;
#else
        page[s] = x;
#ifdef FREE_LATE
        outcome[s] = FINAL(x);
        busy[s] = 0;
#else
        busy[s] = 0;
        outcome[s] = FINAL(x);
#endif
#endif
        x = 0
}

inline take_slot(s) {
#ifdef NO_READY_ACQUIRE
        x = early[s];
#else
        x = a[s];
#endif
        y = b[s];
        assert(busy[s] == 0);           /* else: "pushed a slot whose request is still under way", -EPROTO */
        assert(x == y && x != 0);       /* not half-written */
#ifdef SCRIBBLE
        z = range_[s];
        if
        :: z > 1 -> z = 0               /* -EINVAL, an outcome like any other */
        :: else ->
#ifdef READ_TWICE
                z = range_[s];
#endif
                assert(z <= 1); z = 0
        fi;
#endif
        busy[s] = x;
#ifdef TAKEN_LATE
        handed[s] = 1;
        outcome[s] = TAKEN(x);
#else
        outcome[s] = TAKEN(x);
        handed[s] = 1;
#endif
        x = 0; y = 0
}

inline take() {
#ifdef NO_READY_ACQUIRE
        if :: early[0] = a[0]; early[1] = a[1]; z = 1 :: true fi;
#endif
#ifdef READY_TAKEN_FIRST
        atomic { r = ready; ready = 0 }
        summary = 0;
#else
        summary = 0;
        atomic { r = ready; ready = 0 }
#endif
#ifdef NO_READY_ACQUIRE
        if :: z -> z = 0 :: else -> early[0] = a[0]; early[1] = a[1] fi;
#endif
        if :: r & 1 -> take_slot(0) :: else fi;
        if :: r & 2 -> take_slot(1) :: else fi;
        r = 0
}

proctype pager() {
        byte r, x, y, z;
#ifdef NO_READY_ACQUIRE
        byte early[2];
#endif

end:
        do
#ifdef IN_ORDER
        :: (ready & 1) && order_[0] == order_head -> atomic { ready = ready & 2; order_head++ } take_slot(0)
        :: (ready & 2) && order_[1] == order_head -> atomic { ready = ready & 1; order_head++ } take_slot(1)
#else
        :: summary -> take()
#endif
#ifndef TWO
        :: handed[0] -> decide(0)
        :: handed[1] -> decide(1)
#endif
        od
}

#ifdef TWO
proctype decider() {
        byte x;

end:
        do
        :: handed[0] -> decide(0)
        :: handed[1] -> decide(1)
        od
}
#endif

#ifdef SCRIBBLE
proctype scribble() {
end:
        do
        :: range_[0] == 0 -> range_[0] = 3
        :: range_[0] == 3 -> range_[0] = 0
        od
}
#endif

init {
        atomic {
                run pager();
#ifdef TWO
                run decider();
#endif
#ifdef SCRIBBLE
                run scribble();
#endif
                if :: run client(true); run client(false) :: run client(false); run client(false) fi
        }
}
