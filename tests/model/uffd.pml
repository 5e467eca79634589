/* SPDX-License-Identifier: MIT */
/*
 * A peer's faults: two vCPUs, on the same page or on two, the peer's thread that reads their messages and continues,
 * and a publisher (the pager), from which a ring's client may want the same page at the same time. Each page is its own
 * backing page. A vCPU that nobody wakes shows up as an invalid end state.
 *
 * The kernel, as far as we rely on it: a fault on an unmapped page puts the thread to sleep and queues one message, in
 * one step; a message that has been read is never queued again. CONTINUE maps pages up to the first one that it cannot
 * map and wakes who sleeps on what it mapped; if that is the very first page it does nothing, wakes nobody, and says
 * EEXIST (mapped already), EFAULT (nothing behind it) or EAGAIN (the mapping is changing). We do not rely on it that
 * whoever mapped a page has woken everybody who sleeps on it: MAPPER maps one without waking. A discard may empty a
 * present page and zap its mapping (PUNCH).
 *
 *  RING              a linked client wants the same pages through the ring (right)
 *  MAPPER, PUNCH     see above (right)
 *  HINTS             every publish also hints, and the peer continues the whole range when it has time (right)
 *  BATCH             satisfied faults on neighbouring pages are answered with one CONTINUE (right)
 *
 *  NO_EEXIST_WAKE    EEXIST: on to the next page without waking this one (MAPPER)
 *  EEXIST_STOP       EEXIST: wakes this page and believes that the rest of the range is mapped too (BATCH, MAPPER)
 *  EFAULT_DROP       EFAULT: the fault is believed to be answered (PUNCH)
 *  EAGAIN_DROP       EAGAIN: the fault is believed to be answered
 *  FAULT_UNLOCKED    the peer's thread looks at the page's state and attaches its wait in two steps
 *  HINT_FOR_FAULT    faults that joined a fetch are left to the hint, and a full hint queue drops hints
 *  ANSWER_ONCE       a page that has been continued once is not continued again (PUNCH)
 */
#ifdef HINT_FOR_FAULT
#define HINTS
#endif

bit present[2], mapped[2], hole[2];
bit fetching[2];
bit wait_[2];                   /* the peer's request waits for the page; under the shard's lock */
bit inbox[2];                   /* ... and has been satisfied */
bit hint;
bit asleep[2], message[2];      /* of each vCPU */
byte target[2];                 /* page that each vCPU touches */
byte trouble;                   /* EAGAIN comes once at most */
bit once[2];

proctype vcpu(byte v) {
        byte n;

        do
        :: atomic { mapped[target[v]] -> break }
        :: atomic { !mapped[target[v]] -> asleep[v] = 1; message[v] = 1; (asleep[v] == 0) }
        od
}

inline wake(p) {
        d_step {
                if :: asleep[0] && target[0] == p -> asleep[0] = 0; message[0] = 0 :: else fi;
                if :: asleep[1] && target[1] == p -> asleep[1] = 0; message[1] = 0 :: else fi
        }
}

#define OK 0
#define EEXIST_ 1
#define EFAULT_ 2
#define EAGAIN_ 3

/* UFFDIO_CONTINUE of pages [at, end): moves `at`. */
inline uffdio_continue() {
        atomic {
                if
                :: trouble == 0 -> trouble = 1; r = EAGAIN_
                :: mapped[at] -> r = EEXIST_
                :: !mapped[at] && hole[at] -> r = EFAULT_
                :: !mapped[at] && !hole[at] ->
                        assert(present[at]);
                        mapped[at] = 1;
                        wake(at);
                        at++;
                        if
                        :: at < end && !mapped[at] && !hole[at] ->
                                assert(present[at]);
                                mapped[at] = 1;
                                wake(at);
                                at++
                        :: else
                        fi;
                        r = OK
                fi
        }
}

inline resolve(first, last) {
        at = first;
        end = last;
        do
        :: at >= end -> break
        :: at < end ->
                uffdio_continue();
                if
                :: r == OK
                :: r == EEXIST_ ->
#ifndef NO_EEXIST_WAKE
                        wake(at);
#endif
#ifdef EEXIST_STOP
                        break
#else
                        at++
#endif
                :: r == EFAULT_ ->
#ifdef EFAULT_DROP
                        at++
#else
                        hole[at] = 0    /* backed with zeros; once more */
#endif
                :: r == EAGAIN_ ->
#ifdef EAGAIN_DROP
                        break
#else
                        skip            /* once more */
#endif
                fi
        od;
        at = 0; end = 0; r = OK
}

inline answer(p) {
#ifdef ANSWER_ONCE
        if :: !once[p] -> once[p] = 1; resolve(p, p + 1) :: else fi
#else
        resolve(p, p + 1)
#endif
}

inline fault(v) {
        atomic { message[v] -> message[v] = 0; p = target[v] }
#ifdef FAULT_UNLOCKED
        if
        :: present[p] -> answer(p)
        :: else ->
                fetching[p] = fetching[p] || !present[p];
                wait_[p] = 1
        fi;
#else
        if
        :: atomic { present[p] -> skip } answer(p)
        :: atomic { !present[p] -> fetching[p] = 1; wait_[p] = 1 }
        fi;
#endif
        p = 0
}

proctype peer() {
        byte at, end, p, r;

end_idle:
        do
        :: fault(0)
        :: fault(1)
#ifdef BATCH
        :: atomic { inbox[0] && inbox[1] -> inbox[0] = 0; inbox[1] = 0 } resolve(0, 2)
#endif
        :: inbox[0] -> inbox[0] = 0; answer(0)
        :: inbox[1] -> inbox[1] = 0; answer(1)
#ifdef HINTS
        :: hint && present[0] && present[1] -> hint = 0; resolve(0, 2)
        :: hint && present[0] && !present[1] -> hint = 0; resolve(0, 1)
        :: hint && !present[0] && present[1] -> hint = 0; resolve(1, 2)
#endif
        od
}

inline publish(p) {
        present[p] = 1;
        atomic {
                fetching[p] = 0;
#ifndef HINT_FOR_FAULT
                if :: wait_[p] -> wait_[p] = 0; inbox[p] = 1 :: else fi
#endif
        }
#ifdef HINTS
        if :: hint = 1 :: true fi       /* dropped when there are too many */
#endif
}

proctype pager() {
#ifdef RING
        bit asked;
#endif

end:
        do
        :: fetching[0] -> publish(0)
        :: fetching[1] -> publish(1)
#ifdef RING
        :: atomic { !asked -> asked = 1; if :: !present[0] -> fetching[0] = 1 :: else fi }
#endif
        od
}

#ifdef MAPPER
proctype mapper() {
end:
        if
        :: atomic { present[0] && !mapped[0] -> mapped[0] = 1 }
        :: atomic { present[1] && !mapped[1] -> mapped[1] = 1 }
        fi
}
#endif

#ifdef PUNCH
proctype puncher() {
end:
        if
        :: atomic { present[0] -> hole[0] = 1; mapped[0] = 0 }
        :: atomic { present[1] -> hole[1] = 1; mapped[1] = 0 }
        fi
}
#endif

init {
        atomic {
                if :: target[1] = 0 :: target[1] = 1 fi;
                run vcpu(0);
                run vcpu(1);
                run peer();
                run pager();
#ifdef MAPPER
                run mapper();
#endif
#ifdef PUNCH
                run puncher();
#endif
        }
}
