/* SPDX-License-Identifier: MIT */
/*
 * Who may write a page, and when (invariants 1, 2, 5, 6, 7; order_present_*()). One page; or (HUGE) one backing page of
 * two pages, of which a linked client uses the first while a peer wants the whole. Reads are answered at any time, in
 * any order, and may fail; a read that is slow is asked for again. Safety only: every process may stop anywhere, and
 * what is checked are the bytes.
 *
 * What may happen (each is also a right variant):
 *  CRASH      the broker is killed once, anywhere; its successor believes the bits
 *  DISCARD    the VMM discards the page at any time, and writes to it when the outcome is 0
 *  OVERWRITE  a device asks for the page with PB_INTENT_OVERWRITE at any time, and writes to it when it is present
 *  STUCK      (DISCARD) the punch may hang: the first discard ends with -ETIMEDOUT, a second is tried
 *  HUGE       see above
 *  HEAL       a poisoned page is healed, once, and read again
 *
 * What breaks it:
 *  NF_PUBLISH        the present bit may become visible before the bytes (no release)
 *  NF_PRESENT_LOAD   the reader may have read the bytes before it saw the bit (no acquire)
 *  DIRECT            asynchronous reads land in guest memory
 *  NO_CLAIM          an answer is installed if the bit is 0, without the state `installing`
 *  NO_TICKET         any answer counts while the page is being fetched
 *  CONT_FIRST        a peer is continued before the bit is set (CRASH)
 *  TAKE_NO_CLAIM     discard and overwrite set the bit without claiming the page
 *  DISCARD_JOINED    a discard believes that a page which was being installed by somebody else is zeros afterwards
 *  PUNCH_TWO         a second discard is punched by a second thread while the first is still stuck (STUCK)
 *  HEAL_UNLOCKED     healing looks at the poison bit, and makes the page absent in another step (HEAL)
 *  OUTCOME_BY_BIT    whether a discard that joined has failed is read from the poison bit later (HEAL, DISCARD)
 *  CONT_PARTIAL      a peer is continued when the page that it touched is present (HUGE)
 *  REFETCH_WHOLE     a peer's fault fetches the backing page whole, present parts included (HUGE)
 */
#ifdef HUGE
#define NP 2
#define READS 3
#else
#define NP 1
#define READS 3
#endif

#define NOTHING 0               /* bytes: zeros, or worse */
#define SNAPSHOT 1
#define GUEST 2                 /* what the guest wrote last: must stay */
byte mem[NP];
bit present[NP], poison[NP];
bit mapped;                     /* in the peer: CONTINUE has been done */
bit wanted;                     /* the peer has faulted */
bit dirty[NP];                  /* the guest has written GUEST, and nothing has been discarded since */
bit discarding;                 /* until its outcome the content is undefined */
bit zeros_fine;                 /* somebody has asked for zeros: who reads some has lost nothing */

#define ABSENT 0                /* or what the map says */
#define FETCHING 1
#define INSTALLING 2
byte state[NP], ticket[NP];
byte last_ticket;
#ifdef HEAL
byte reads = READS;             /* healing gives one more */
#else
#define reads READS
#endif
bit era;                        /* which broker lives */

/* A broker's step: it does nothing any more once the broker has been killed. */
#define STEP if :: era != my -> goto gone :: else fi

inline present_publish(p) {
#ifdef CONT_FIRST
        atomic { STEP; mapped = wanted }
#endif
        atomic { STEP; present[p] = 1 }
        atomic { STEP; state[p] = ABSENT }
}

inline install(p, bytes) {
#ifdef NF_PUBLISH
        if
        :: true -> atomic { STEP; mem[p] = bytes } present_publish(p)
        :: true -> present_publish(p) atomic { mem[p] = bytes }
        fi
#else
        atomic { STEP; mem[p] = bytes }
        present_publish(p)
#endif
}

proctype read(byte p; byte mine; bit my) {
#ifdef DIRECT
        mem[p] = SNAPSHOT;              /* the killed broker's, too */
#endif
        atomic {
                STEP;
                if
#ifdef NO_CLAIM
                :: !present[p]
#elif defined(NO_TICKET)
                :: state[p] == FETCHING -> state[p] = INSTALLING
#else
                :: state[p] == FETCHING && ticket[p] == mine -> state[p] = INSTALLING; ticket[p] = 0
#endif
                :: else -> goto gone    /* late: thrown away */
                fi
        }
        if
#ifdef DIRECT
        :: true -> present_publish(p)
#else
        :: true -> install(p, SNAPSHOT)
#endif
#if !defined(NO_CLAIM) && !defined(DIRECT)
        :: true -> atomic {             /* the read failed: again, or poison after the last one */
                STEP;
                if
                :: last_ticket < reads -> last_ticket++; ticket[p] = last_ticket; state[p] = FETCHING;
                        run read(p, last_ticket, my)
                :: last_ticket == reads -> assert(mine == last_ticket || NP > 1); poison[p] = 1; state[p] = ABSENT
                fi
        }
#endif
        fi;
gone:
        skip
}

inline fetch(p) {
        last_ticket++;
        ticket[p] = last_ticket;
        state[p] = FETCHING;
        run read(p, last_ticket, my)
}

#ifdef HUGE
#define ALL_PRESENT (present[0] && present[1])
#else
#define ALL_PRESENT present[0]
#endif
#ifdef CONT_PARTIAL
#define MAY_CONTINUE present[0]
#else
#define MAY_CONTINUE ALL_PRESENT
#endif
#ifdef REFETCH_WHOLE
#define IS_WANTED(p) (!present[p] || (wanted && !ALL_PRESENT))
#else
#define IS_WANTED(p) (!present[p])
#endif

proctype broker(bit my) {
end:
        do
        :: atomic { era == my && IS_WANTED(0) && !poison[0] && state[0] == ABSENT && last_ticket < reads -> fetch(0) }
        :: atomic { era == my && state[0] == FETCHING && last_ticket < reads -> fetch(0) }      /* timed out */
#ifdef HUGE
        :: atomic {
                era == my && wanted && IS_WANTED(1) && !poison[1] && state[1] == ABSENT && last_ticket < reads ->
                fetch(1)
        }
#endif
        :: atomic { era == my && wanted && !mapped && MAY_CONTINUE -> mapped = 1 }
        :: era != my -> break
        od
}

/* The guest: a device that looks at the bit, or a vCPU of the peer. */
proctype device() {
        byte seen;

end:
#ifdef NF_PRESENT_LOAD
        if
        :: seen = mem[0]; (present[0])
        :: (present[0]); seen = mem[0]
        fi;
#else
        (present[0]);
        seen = mem[0];
#endif
        assert(seen != NOTHING || zeros_fine);
        atomic { if :: !discarding -> mem[0] = GUEST; dirty[0] = 1 :: else fi }
}

proctype peer() {
        wanted = 1;
end:
        (mapped);
        atomic {
                if
                :: !discarding ->
                        assert(mem[NP - 1] != NOTHING || zeros_fine);
                        mem[NP - 1] = GUEST;
                        dirty[NP - 1] = 1
                :: else
                fi
        }
}

proctype monitor() {
end:
        if
        :: atomic { dirty[0] && mem[0] != GUEST -> assert(false) }
#ifdef HUGE
        :: atomic { dirty[1] && mem[1] != GUEST -> assert(false) }
#endif
        fi
}

#ifdef HEAL
proctype healer(bit my) {
end:
#ifdef HEAL_UNLOCKED
        (poison[0]);
        atomic { STEP; poison[0] = 0; state[0] = ABSENT; reads++ }
#else
        atomic { poison[0] -> STEP; poison[0] = 0; reads++ }
#endif
gone:
        skip
}
#endif

#ifdef CRASH
proctype crash() {
        atomic { era = 1; state[0] = ABSENT; state[NP - 1] = ABSENT; ticket[0] = 0; ticket[NP - 1] = 0; run broker(1) }
}
#endif

/* Under the lock: the page becomes ours whoever reads it; but not while it is being installed. */
inline take_over() {
        atomic {
                STEP;
                if
                :: present[0] -> mine = 0
                :: !present[0] && state[0] == INSTALLING -> mine = 0; joined = 1
                :: !present[0] && state[0] != INSTALLING ->
                        mine = 1;
#ifndef TAKE_NO_CLAIM
                        state[0] = INSTALLING; ticket[0] = 0; poison[0] = 0
#endif
                fi
        }
        if
        :: mine ->
                atomic { STEP; mem[0] = NOTHING }
                atomic { STEP; present[0] = 1 }
#ifndef TAKE_NO_CLAIM
                atomic { STEP; state[0] = ABSENT }
#endif
        :: else ->
                /* Joined: until the page is settled, which may be after more tries. Poison fails the request. */
#ifdef OUTCOME_BY_BIT
end_join:       (era != my || present[0] || poison[0]);
                if :: era != my || poison[0] -> goto gone :: else fi
#else
end_join:       atomic {        /* the wait's result is set by who settles the page */
                        (era != my || present[0] || poison[0]);
                        if :: era != my || poison[0] -> goto gone :: else fi
                }
#endif
        fi
}

#ifdef OVERWRITE
proctype overwrite(bit my) {
        bit mine, joined;

        zeros_fine = 1;
        take_over();
        /* As the device above, which has now asked with a promise to write all of the page. */
gone:
end:
        skip
}
#endif

#ifdef DISCARD
chan punch = [2] of { byte };   /* the helper thread's queue */
byte punched;                   /* the last discard that has been punched */

proctype puncher(bit my) {
        byte n;

end:
        do
        :: punch ? n ->
                mem[0] = NOTHING;       /* hangs for any time before this, and cannot be called back */
                punched = n
        od
}

proctype vmm(bit my) {
        bit mine, joined;
        byte n = 1;

        atomic { discarding = 1; zeros_fine = 1; dirty[0] = 0 }
again:
        take_over();
#ifdef DISCARD_JOINED
        if :: mine || joined -> goto discarded :: else fi;
#endif
        punch ! n;
#ifdef STUCK
end_stuck:
        if
        :: (punched == n)
        :: n == 1 ->                    /* -ETIMEDOUT: later once more */
                n = 2;
#ifdef PUNCH_TWO
                run puncher(my);
#endif
                goto again
        fi;
#else
end_punch:
        (punched == n);
#endif
discarded:
        /* Outcome 0: zeros from here on, until the guest writes; then what it wrote. */
        assert(mem[0] == NOTHING);
        atomic { discarding = 0; mem[0] = GUEST; dirty[0] = 1 }
gone:
        skip
}
#endif

init {
        atomic {
                run broker(0);
                run device();
                run peer();
                run monitor();
#ifdef HEAL
                run healer(0);
#endif
#ifdef CRASH
                run crash();
#endif
#ifdef OVERWRITE
                run overwrite(0);
#endif
#ifdef DISCARD
                run puncher(0);
                run vmm(0);
#endif
        }
}
