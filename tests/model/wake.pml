/* SPDX-License-Identifier: MIT */
/*
 * Doorbell, map word, event word, sleepers (PROTOCOL.md, "Session ring" step 4 and "Waiting"; order_after_push(),
 * order_after_arm(), order_event_*(), order_sleepers_*()). Two waiting threads (of two sessions; SHARED: of one) and
 * the pager, or (PEER) one waiting thread, the pager and a peer's thread that claims and publishes too. Two pages in
 * one word of the map. There are no slices: a thread that nobody wakes sleeps for ever and shows up as an invalid end
 * state.
 *
 * A missing full fence between a store and a later load is a free choice of their order. The transitions of a page and
 * the waits on it change in one atomic step: that is the shard's lock.
 *
 * What may happen (each is also a right variant):
 *  PEER      instead of thread 1 a userfaultfd peer wants page 0 at the same time, on a thread of the broker
 *  POISON    a fetch may fail for good: poison, no present bit
 *  PREFETCH  page 0 is being prefetched when all begins; it may fail and must not poison
 *  KILL      thread 0's process (its session) may be killed; queued fetches that nobody waits for are dropped
 *  REQUEUE   a hostile holder of the map moves a waiter off the map's word
 *  MAP_ONLY  thread 1 has no request: it holds the map only and sleeps on the word for page 0
 *  SHARED    both threads are of one session: one event word, one sleepers word
 *  WORD_OFF  the broker does not wake the map's word at all: sessions live by the event word (right, unless MAP_ONLY)
 *  CMP_EARLY the waiter does not test the value again that it passes (right with the event word, wrong with MAP_ONLY)
 *
 * What breaks it:
 *  NF_PUSH           no fence between push and load of doorbell_needed
 *  NF_ARM            no fence between arming the doorbell and looking again
 *  NO_RECHECK        the broker arms and sleeps without looking again
 *  RECHECK_ONE       ... or looks again at one session only
 *  EV_AFTER          the event word is loaded after the tests
 *  EV_NF             no fence between bumping the event word and the load of sleepers
 *  NF_SLEEP          the kernel may compare the event word before the sleepers word is changed
 *  EV_BEFORE_OUTCOME the event word is bumped before the outcome is stored
 *  NO_EVENT          waiters sleep on the map's word alone
 *  SLEEPERS_FLAG     the sleepers word is a flag, not a count (SHARED)
 *  WAKE_FIRST        the map's word is woken before the bit is set (MAP_ONLY)
 *  DECIDE_EARLY      whom to tell is decided before the bit is set
 *  WANT_UNLOCKED     a request looks at the page's state and attaches itself in two steps (PEER)
 *  PREFETCH_DROPS    a failing prefetch goes back to absent by its own class, whoever has joined it
 *  DROP_SHARED       a client's death drops the fetches that it waited for, whoever has joined them
 *  INBOX_AFTER       the pager looks into its inbox, then reads the eventfd that announces it (PEER)
 */
#ifdef SHARED
#define SESSION(t) 0
#else
#define SESSION(t) (t)
#endif
#define BIT(p) (1 << (p))
#define PEER_ 2                 /* index of the peer's wait */

byte present, poison;           /* the map: one word of each; bits of two pages */
byte word_waiter[2];            /* 1: in the kernel's queue of the map's word; 2: moved elsewhere by REQUEUE */
bit event_waiter[2];            /* in the kernel's queue of the session's event word */
byte event[2], sleepers[2], need[2];
bit rung[2];                    /* an edge on the doorbell since epoll_wait() last returned */
bit bell;                       /* the pager's own eventfd */

#define NONE 0
#define PUSHED 1
#define TAKEN 2
#define SETTLED 3
byte request[2];                /* PUSHED: ready and summary bit are set; SETTLED: in the pager's inbox */
byte want[2];                   /* pages of the request; 0: one that is refused */
byte result[2];
byte outcome[2];                /* 0 none, 1 done, 2 failed */
bit dead;

#define ABSENT 0                /* or present, or poisoned: what the map says */
#define FETCHING 1              /* the pager's: queued or being read */
#define FOREIGN 2               /* installing, by the peer's thread */
byte state[2];
bit prefetch;                   /* page 0's fetch began as a prefetch */
byte wait_[3];                  /* pages awaited by request 0, 1 and by the peer */
bit continued;                  /* the peer's inbox */

/* ---- waiting threads ---- */

inline push(t) {
#ifdef NF_PUSH
        if
        :: request[t] = PUSHED; n = need[SESSION(t)]
        :: n = need[SESSION(t)]; request[t] = PUSHED
        fi;
#else
        request[t] = PUSHED;
        n = need[SESSION(t)];
#endif
        if :: n -> rung[SESSION(t)] = 1; n = 0 :: else fi
}

proctype client(byte t) {
        byte v, w, n;

        push(t);
again:
#ifdef KILL
        if :: t == 0 -> dead = 1; goto killed :: true fi;
#endif
#ifndef EV_AFTER
        v = event[SESSION(t)];
#endif
        if :: outcome[t] || (want[t] && (present & want[t]) == want[t]) -> goto done :: else fi;
#ifdef EV_AFTER
        v = event[SESSION(t)];
#endif
        atomic {
                w = present;
#ifndef CMP_EARLY
                if :: want[t] && (w & want[t]) == want[t] -> goto done :: else fi;
#endif
        }
#ifdef NF_SLEEP
        if
        :: sleepers[SESSION(t)]++; atomic { n = (event[SESSION(t)] == v); event_waiter[t] = n }
        :: atomic { n = (event[SESSION(t)] == v); event_waiter[t] = n } sleepers[SESSION(t)]++
        fi;
        if :: n -> n = 0 :: else -> goto awake fi;
        atomic {
                if
                :: want[t] == 0 || present == w -> word_waiter[t] = 1
                :: else -> event_waiter[t] = 0; goto awake
                fi
        }
#else
#ifdef SLEEPERS_FLAG
        sleepers[SESSION(t)] = 1;
#else
        sleepers[SESSION(t)]++;
#endif
        /* futex_waitv(): each word is compared and queued on in one step, one after the other. */
        atomic { if :: want[t] == 0 || present == w -> word_waiter[t] = 1 :: else -> goto awake fi }
#ifdef NO_EVENT
        event_waiter[t] = 1;
#else
        atomic { if :: event[SESSION(t)] == v -> event_waiter[t] = 1 :: else -> word_waiter[t] = 0; goto awake fi }
#endif
#endif
        atomic { (word_waiter[t] == 0 || event_waiter[t] == 0); word_waiter[t] = 0; event_waiter[t] = 0 }
awake:
        atomic {
#ifdef SLEEPERS_FLAG
                sleepers[SESSION(t)] = 0;
#else
                sleepers[SESSION(t)]--;
#endif
                v = 0; w = 0; n = 0;
                goto again
        }
done:
        v = 0; w = 0;
        assert((want[t] && (present & want[t]) == want[t]) || outcome[t] == 2);
        assert(outcome[t] != 2 || want[t] == 0 || poison != 0);
        (outcome[t]);           /* the slot is free again: every request gets an outcome */
killed:
        skip
}

#ifdef MAP_ONLY
proctype map_waiter() {
        byte w;

        do
        :: true ->
#ifdef CMP_EARLY
                if :: present & 1 -> break :: else fi;
                w = present;
#else
                w = present;
                if :: w & 1 -> break :: else fi;
#endif
                atomic { if :: present == w -> word_waiter[1] = 1 :: else fi }
                (word_waiter[1] == 0)
        od
}
#endif

#ifdef REQUEUE
proctype requeuer() {
end:
        if
        :: atomic { word_waiter[0] == 1 -> word_waiter[0] = 2 }
        :: atomic { word_waiter[1] == 1 -> word_waiter[1] = 2 }
        fi
}
#endif

/* ---- broker ---- */

inline wake_word() {
#ifndef WORD_OFF
        d_step {
                if :: word_waiter[0] == 1 -> word_waiter[0] = 0 :: else fi;
                if :: word_waiter[1] == 1 -> word_waiter[1] = 0 :: else fi
        }
#else
        skip
#endif
}

inline bump(s) {
#ifdef EV_NF
        if
        :: event[s]++; n = sleepers[s]
        :: n = sleepers[s]; event[s]++
        fi;
#else
        event[s]++;
        n = sleepers[s];
#endif
        d_step {
                if
                :: n ->
#ifndef NO_EVENT
                        if :: SESSION(0) == s -> event_waiter[0] = 0 :: else fi;
                        if :: SESSION(1) == s -> event_waiter[1] = 0 :: else fi;
#endif
                        n = 0
                :: else
                fi
        }
}

inline decide(t, r) {
#ifdef EV_BEFORE_OUTCOME
        bump(SESSION(t));
        outcome[t] = r
#else
        outcome[t] = r;
        bump(SESSION(t))
#endif
}

/* Under the lock: takes `mask` from the waits; those that are finished go to their owner's inbox. */
inline settle(mask, r, told) {
        for (i : 0 .. 1) {
                if
                :: (wait_[i] & (mask)) && (told & BIT(i)) ->
                        wait_[i] = wait_[i] & ~(mask);
                        if
                        :: wait_[i] == 0 || r == 2 -> wait_[i] = 0; request[i] = SETTLED; result[i] = r
                        :: else
                        fi
                :: else
                fi
        }
        if :: (wait_[PEER_] & (mask)) && (told & BIT(PEER_)) -> wait_[PEER_] = 0; continued = 1 :: else fi;
        i = 0
}

inline publish(p) {
#ifdef DECIDE_EARLY
        d_step { who = 0; for (i : 0 .. 2) { if :: wait_[i] & BIT(p) -> who = who | BIT(i) :: else fi } i = 0 }
#endif
#ifdef WAKE_FIRST
        wake_word();
        present = present | BIT(p);
#else
        present = present | BIT(p);
        wake_word();
#endif
#ifdef DECIDE_EARLY
        d_step { state[p] = ABSENT; settle(BIT(p), 1, who); who = 0 }
#else
        d_step { state[p] = ABSENT; settle(BIT(p), 1, 7) }
#endif
}

inline answer(p) {
        if
        :: publish(p)
#if defined(POISON) || defined(PREFETCH)
        :: atomic {
                /* The read failed, after all tries. Whether anybody needs it is looked up under the lock. */
                if
#ifdef PREFETCH
#ifdef PREFETCH_DROPS
                :: p == 0 && prefetch ->
#else
                :: p == 0 && prefetch && !((wait_[0] | wait_[1] | wait_[2]) & 1) ->
#endif
                        state[0] = ABSENT; prefetch = 0
                :: p == 0 && prefetch && ((wait_[0] | wait_[1] | wait_[2]) & 1) ->
                        prefetch = 0            /* tried again, for them */
#endif
                :: !(p == 0 && prefetch) ->
#ifdef POISON
                        d_step { poison = poison | BIT(p); state[p] = ABSENT; settle(BIT(p), 2, 7) }
#else
                        skip                                                            /* tried again */
#endif
                fi
        }
#endif
        fi
}

/* Under the lock: what is present is not waited for; what is in flight is joined; what is absent is claimed. */
inline want_pages(i_, mask, claim_as) {
        if
        :: poison & (mask) -> m = 4
        :: else ->
                m = (mask) & ~present;
                if :: (m & 1) && state[0] == ABSENT -> state[0] = claim_as :: else fi;
                if :: (m & 2) && state[1] == ABSENT -> state[1] = claim_as :: else fi;
                wait_[i_] = m
        fi
}

inline take(t) {
        if
        :: want[t] == 0 -> request[t] = TAKEN; decide(t, 2)
        :: else ->
#ifdef WANT_UNLOCKED
                atomic {
                        request[t] = TAKEN;
                        want_pages(t, want[t], FETCHING);
                        if :: m < 4 -> wait_[t] = 0 :: else fi
                }
                if :: m < 4 -> wait_[t] = m :: else fi;
#else
                atomic { request[t] = TAKEN; want_pages(t, want[t], FETCHING) }
#endif
                if
                :: m == 4 -> decide(t, 2)
                :: m == 0 -> decide(t, 1)
                :: else
                fi;
                m = 0
        fi
}

inline arm() {
        d_step { need[0] = 1; need[1] = 1 }
}

inline look() {
        d_step {
                r0 = (request[0] == PUSHED);
#ifndef RECHECK_ONE
                r1 = (request[1] == PUSHED)
#endif
        }
}

#define HAS_INBOX (request[0] == SETTLED || request[1] == SETTLED)
#define HAS_READ (state[0] == FETCHING || state[1] == FETCHING)

proctype pager() {
        byte i, m, n, who;
        bit r0, r1;

end:
        do
        :: request[0] == PUSHED -> take(0)
        :: request[1] == PUSHED -> take(1)
        :: request[0] == SETTLED -> request[0] = NONE; decide(0, result[0])
        :: request[1] == SETTLED -> request[1] = NONE; decide(1, result[1])
        :: state[0] == FETCHING -> answer(0)
        :: state[1] == FETCHING -> answer(1)
#ifdef KILL
        :: dead -> atomic {
                dead = 0;
                m = wait_[0];
                wait_[0] = 0;
                request[0] = NONE;
#ifndef DROP_SHARED
                m = m & ~(wait_[1] | wait_[2]);
#endif
                if :: (m & 1) && state[0] == FETCHING -> state[0] = ABSENT :: else fi;
                if :: (m & 2) && state[1] == FETCHING -> state[1] = ABSENT :: else fi;
                m = 0
        }
#endif
        :: request[0] != PUSHED && request[1] != PUSHED && !HAS_INBOX && !HAS_READ && !dead ->
                /* Nothing to do: arm, look again, sleep. */
#ifdef NF_ARM
                if
                :: arm(); look()
                :: look(); arm()
                fi;
#else
                arm();
#ifndef NO_RECHECK
                look();
#endif
#endif
                if
                :: r0 || r1 || HAS_INBOX
                :: else ->
#ifdef INBOX_AFTER
                        bell = 0;
#endif
end_sleep:              (rung[0] || rung[1] || bell || dead)
                fi;
                atomic { rung[0] = 0; rung[1] = 0; bell = 0; r0 = 0; r1 = 0; need[0] = 0; need[1] = 0 }
        od
}

#ifdef PEER
/* One fault on page 0; the peer's thread serves it itself if nobody else does. */
proctype peer() {
        byte i, m, who;

        atomic { want_pages(PEER_, 1, FOREIGN) }
        if
        :: m == 1 && state[0] == FOREIGN ->
                publish(0);
                bell = 1;               /* somebody else's request may be in the pager's inbox now */
                (continued)
        :: m == 1 && state[0] != FOREIGN -> (continued)
        :: m == 0 || m == 4             /* present, or poisoned: answered at once */
        fi
}
#endif

init {
        atomic {
#ifdef PREFETCH
                prefetch = 1;
                state[0] = FETCHING;
#endif
                if :: want[0] = 1 :: want[0] = 3 fi;
                run pager();
                run client(0);
#ifdef MAP_ONLY
                want[1] = 1;
                run map_waiter();
#elif !defined(PEER)
                if :: want[1] = 1 :: want[1] = 2 :: want[1] = 0 fi;
                run client(1);
#else
                run peer();
#endif
#ifdef REQUEUE
                run requeuer();
#endif
        }
}
