/* SPDX-License-Identifier: MIT */
/*
 * Fences between atomic accesses. ThreadSanitizer does not model them, and gcc refuses to compile them under it. What they
 * order are atomics, of which it reports nothing anyway, so there they keep the compiler in order and nothing else.
 */
#pragma once

#if defined(__SANITIZE_THREAD__)
#define FENCE(order) __asm__ __volatile__("" ::: "memory")
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FENCE(order) __asm__ __volatile__("" ::: "memory")
#endif
#endif
#ifndef FENCE
#define FENCE(order) __atomic_thread_fence(order)
#endif

static inline void fence_full(void) {
        FENCE(__ATOMIC_SEQ_CST);
}

/* What was read or written before stays before later writes. */
static inline void fence_release(void) {
        FENCE(__ATOMIC_RELEASE);
}

/* What was read before stays before later reads and writes. */
static inline void fence_acquire(void) {
        FENCE(__ATOMIC_ACQUIRE);
}
