/* SPDX-License-Identifier: MIT */
/*
 * Restart: the broker is killed twice, anywhere, and the next one goes on with the same ring (PROTOCOL.md, "Restart";
 * client/resume.c, slot.c, completion.c). New state, doorbell and completion queue; the words of the old ones are frozen,
 * nobody wakes or changes them any more. A thread that sleeps for ever shows up as an invalid end state.
 *
 * One thread owns a request that must not be carried out once its caller has been told that it is done (a discard);
 * another one resumes. `gen` is the client's generation: odd from before HELLO until all is in place.
 *
 *  ALONE             there is no other thread: the owner notices at the end of a slice, and resumes itself
 *  NO_SLICE          the wait has no slices: the owner never looks after the broker (ALONE)
 *  NO_GENERATION     the owner sleeps on the event word only: nobody wakes it when the word has become another one
 *  NO_RESUBMIT       the owner does not push again what only a broker before this one was asked
 *  OLD_FLAG          it does, and looks at the doorbell_needed of the first epoch
 *  KEEP_READY        the next broker does not clear the ready bits that it finds
 *  TRUST_UNVERIFIED  the owner believes an outcome of a push that met a resume
 *  ODD_LATE          the generation becomes odd only after the next broker has answered
 *
 *  ASYNC             instead: a slot that is used by two asynchronous requests in turn, harvested by another thread. Whoever
 *                    resumes pushes again. Each must be counted exactly once, and no request pushed over another
 *  RESEND_SHARED     whoever resumes leaves the requests within the harvester's reach meanwhile
 *  ONCE              one restart only, for fewer states
 *  NO_FREEZE         the harvester's place in the queue says nothing of the queue's epoch
 *  PLAIN_BIT         a request that has gone to the next broker looks to the harvester as before
 *  COMMIT_EARLY      the sequence is in the ring before the harvester may take the slot
 *  NO_VOID           the sequence of the slot's last use stays there until then
 */
#ifdef ONCE
#define KILLS 1
#else
#define KILLS 2
#endif
#define EPOCHS 3

byte live;                      /* the epoch of the broker that lives */
byte conn;                      /* the epoch that the client is connected to */
byte mapped;                    /* whose state and doorbell stand at the client's addresses */
byte gen;
byte hello, welcome;            /* the epoch that has been asked, that has answered */
bit ready;                      /* the ring stays */

active proctype killer() {
end:    do
        :: live < KILLS -> live++
        :: live == KILLS -> break
        od
}

inline take_over(e) {
        skip;
end_hello:
        if
        :: e == 0
        :: e > 0 && hello == e ->
#ifndef KEEP_READY
                ready = 0;
#endif
                welcome = e
        fi
}

#ifndef ASYNC

byte outcome[EPOCHS];           /* 0: not taken, 1: taken, 2: done */
bit event[EPOCHS];
bit need[EPOCHS], rung[EPOCHS];
bit asleep, told;
byte on;                        /* whose event word the owner sleeps on */

#define ODD(g) ((g) % 2)

#ifdef OLD_FLAG
#define FLAG need[0]
#else
#define FLAG need[mapped]
#endif
#ifdef TRUST_UNVERIFIED
#define COUNTS true
#else
#define COUNTS !ODD(pushed)
#endif
#ifdef NO_GENERATION
#define SAME_GENERATION true
#else
#define SAME_GENERATION (gen == g)
#endif

/* Nobody looks at it any more; fewer states. */
inline forget(old) {
#ifndef OLD_FLAG
        need[old] = 0;
#endif
        outcome[old] = 0; rung[old] = 0; event[old] = 0
}

inline resume() {
        l = live;
#ifndef ODD_LATE
        gen = gen + 1 - ODD(gen);
#endif
        hello = l;
        if
        :: welcome == l ->
#ifdef ODD_LATE
                gen = gen + 1 - ODD(gen);
#endif
                atomic { forget(mapped); mapped = l };
                conn = l;
                gen = gen + 1;
#ifndef NO_GENERATION
                if :: asleep -> asleep = 0 :: else fi;
#endif
                rung[mapped] = 1
        :: live != l                            /* killed again: HELLO to the next one */
        fi;
        l = 0
}

proctype owner() {
        byte g, pushed, l;
        bit n, ev;

push:
        g = gen;
        pushed = g + 1 - ODD(g);
        ready = 1;
        n = FLAG;
        if :: n -> rung[mapped] = 1 :: else fi;
        if :: gen == g && !ODD(g) -> pushed = g :: else fi;
again:
        g = gen;
        ev = event[mapped];
        if :: outcome[mapped] == 2 && COUNTS -> goto out :: else fi;
#ifdef ALONE
        if :: live != conn -> resume(); goto again :: else fi;
#endif
#ifndef NO_RESUBMIT
        if :: !ODD(g) && pushed != g -> goto push :: else fi;
#endif
        atomic {
                if
                :: event[mapped] == ev && SAME_GENERATION -> asleep = 1; on = mapped
                :: else
                fi
        }
        if
        :: !asleep
#ifndef NO_SLICE
        :: asleep && live != conn -> asleep = 0 /* the slice ends, and the broker's life is looked at */
#endif
        fi;
        goto again;
out:
        told = 1
}

proctype resumer() {
        byte l;

end:    do
        :: live != conn -> resume()
        od
}

proctype broker() {
        byte e;
        bit r;

next:   {
                take_over(e);
end_loop:       do
                :: ready ->
                        ready = 0;
                        if
                        :: outcome[e] == 0 ->
                                outcome[e] = 1;
                                assert(!told);          /* carried out; and never again once the caller knows */
                                outcome[e] = 2;
                                event[e] = 1;
                                if :: asleep && on == e -> asleep = 0 :: else fi
                        :: else                         /* taken before */
                        fi
                :: true ->
                        need[e] = 1;
                        r = ready;
                        if
                        :: r
                        :: else ->
end_sleep:                      rung[e] -> rung[e] = 0
                        fi;
                        need[e] = 0; r = 0
                od
        } unless { atomic { live != e -> e = live; r = 0 } };
        goto next
}

init {
        atomic {
                run owner();
                run broker();
#ifndef ALONE
                run resumer()
#endif
        }
        (told)
}

#else

byte seq;                       /* in the ring's slot */
byte current;                   /* which request uses the slot: private to the client */
byte oseq[EPOCHS];
bit ofin[EPOCHS];
byte tail[EPOCHS];              /* every entry names the one slot */
byte cursor_gen, head;
byte async;                     /* not 0: the slot belongs to a request. Another value for each broker and request */
bit pushing, inuse;
byte harvested, left;           /* in which generation the harvester, the submitter was done with the slot */
byte count[3];                  /* completions of request 1 and 2 */
bit lost_slot;

#define ODD(g) ((g) % 2)
#ifdef PLAIN_BIT
#define CLAIM(g, k) 1
#else
#define CLAIM(g, k) (4 * (g) + (k))
#endif

/* By whoever is second. A ready bit that came later than the broker that answered is a request to its successor. */
inline free_slot() {
        if
        :: left <= harvested -> inuse = 0
        :: else -> lost_slot = 1                /* never used again */
        fi
}

proctype submitter() {
        byte k, before;
        bit first;

        k = 1;
        do
        :: k <= 2 ->
                if
                :: !inuse -> inuse = 1
                :: lost_slot -> break
                fi;
                current = k;
                before = gen;
                pushing = 1;
#ifndef NO_VOID
                seq = 0;
#endif
#ifdef COMMIT_EARLY
                seq = k;
                async = CLAIM(before, k);
#else
                async = CLAIM(before, k);
                seq = k;
#endif
                ready = 1;
                left = gen;
                atomic { first = pushing; pushing = 0 }
                if
                :: first
                :: !first -> free_slot()
                fi;
                if :: lost_slot -> break :: else fi;
                k++
        :: else -> break
        od
}

proctype harvester() {
        byte g, h, s, claim;
        bit f, mine, late;

end:    do
        :: cursor_gen % 2 == 0 && head != tail[mapped] ->
                atomic { g = cursor_gen; h = head }
                if
                :: ODD(g) || h == tail[mapped]
                :: else ->
                        s = oseq[mapped]; f = ofin[mapped]; claim = async;
                        atomic {
                                if
#ifdef NO_FREEZE
                                :: head == h -> head = h + 1; mine = 1
#else
                                :: head == h && cursor_gen == g -> head = h + 1; mine = 1
#endif
                                :: else
                                fi
                        }
                        if
                        :: mine ->
                                atomic { mine = (claim != 0 && async == claim); if :: mine -> async = 0 :: else fi };
                                if
                                :: mine ->
                                        assert(f && s == current);
                                        count[s] = count[s] + 1;
                                        assert(count[s] == 1);
                                        harvested = g;
                                        atomic { late = pushing; pushing = 0 }
                                        if :: !late -> free_slot() :: else fi
                                :: else
                                fi
                        :: else
                        fi
                fi;
                g = 0; h = 0; s = 0; f = 0; mine = 0; late = 0; claim = 0
        od
}

proctype resumer() {
        byte l;
        bit mine;

end:    do
        :: live != conn ->
                l = live;
                gen = gen + 1 - ODD(gen);
                hello = l;
                if
                :: welcome == l ->
#ifndef NO_FREEZE
                        atomic { cursor_gen = gen; head = 0 }
#endif
#ifdef RESEND_SHARED
                        mine = (async != 0);
#else
                        atomic { mine = (async != 0); async = 0 }
#endif
                        atomic { oseq[mapped] = 0; ofin[mapped] = 0; tail[mapped] = 0; mapped = l };
#ifndef RESEND_SHARED
                        if :: mine -> async = CLAIM(gen + 1, current) :: else fi;
#endif
                        if :: mine -> ready = 1 :: else fi;
                        conn = l;
                        atomic { cursor_gen = gen + 1; head = 0 }
                        gen = gen + 1
                :: live != l
                fi;
                l = 0; mine = 0
        od
}

proctype broker() {
        byte e, s;
        bit busy;

next:   {
                take_over(e);
end_loop:       do
                :: ready ->
                        ready = 0;
                        s = seq;
                        if
                        :: s == oseq[e] || s == 0
                        :: else ->
                                assert(!busy);          /* or the session is ended */
                                oseq[e] = s;
                                ofin[e] = 0;
                                busy = 1
                        fi
                :: busy -> ofin[e] = 1; busy = 0; tail[e] = tail[e] + 1
                od
        } unless { atomic { live != e -> e = live; s = 0; busy = 0 } };
        goto next
}

init {
        atomic {
                run submitter(); run harvester(); run resumer();
                run broker()
        }
        (count[1] == 1 && (count[2] == 1 || lost_slot))
}

#endif
