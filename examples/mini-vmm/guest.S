/* SPDX-License-Identifier: MIT */
/*
 * The guest. It fills its memory with a pattern and asks for a snapshot. When it goes on, restored, perhaps on several
 * vCPUs at once, it looks at every page and leaves a mark on it, and looks at all marks at the end.
 *
 * Long mode, identity mapping, no stack, no interrupts, and plain instructions only: where KVM emulates every one
 * of them they cost a microsecond each. To the VMM these bytes are data; nothing here runs in its process.
 */
#define __ASSEMBLER__ 1
#include "guest.h"

/* What registers hold throughout:
 *   rbp  order mask        r11  seed
 *   rbx  mismatches        r12  look at whole pages?
 *   rsi  step of a walk    r13  hash of the page
 *   r8   pages             r14  multiplier of the walk
 *   r9   pages below hole  r15  index of the vCPU
 *   r10  shift behind it   rax rcx rdx rdi: at hand */

/* rdx: page -> rdi: its address, r13: its hash, rax: its value (0 if it is one of those left empty). Changes rcx. */
.macro  page_locate
        mov     %rdx, %rdi
        shl     $12, %rdi
        cmp     %r9, %rdx
        jb      1f
        add     %r10, %rdi
1:      mov     $PAGE_MULTIPLIER, %r13
        lea     (%rdx, %r11), %rcx
        imul    %rcx, %r13
        mov     %r13, %rcx
        shr     $32, %rcx
        xor     %rcx, %r13
        xor     %eax, %eax
        test    %rdx, GUEST_PARAMS + PARAM_STRIDE_MASK
        jnz     1f
        mov     %r13, %rax
1:
.endm

/* The word at rdi must be rax. Changes rdx. */
.macro  word_check
        mov     (%rdi), %rdx
        cmp     %rax, %rdx
        je      1f
        inc     %rbx
        out     %al, $PORT_MISMATCH
1:
.endm

/* All words from rdi must be rax; leaves rdi behind them. Changes rcx, rdx. */
.macro  words_check count
        mov     $\count, %ecx
2:      repe scasq
        je      3f
        sub     $8, %rdi
        word_check
        add     $8, %rdi
        test    %rcx, %rcx
        jnz     2b
3:
.endm

/* The code between begin and end sees every page once, in rdx: step * odd number modulo a power of two is a
 * permutation; what lies outside of the pattern is stepped over. */
.macro  walk_begin name
        xor     %esi, %esi
\name:
        mov     %rsi, %rdx
        imul    %r14, %rdx
        and     %rbp, %rdx
        cmp     %r8, %rdx
        jae     \name\()_next
        cmp     GUEST_PARAMS + PARAM_FIRST_PAGE, %rdx
        jb      \name\()_next
.endm

.macro  walk_end name
\name\()_next:
        inc     %rsi
        test    $0xfff, %esi
        jnz     1f
        out     %al, $PORT_PROGRESS
1:      cmp     %rbp, %rsi
        jbe     \name
.endm

        .section .rodata
        .balign 16
        .globl guest_begin, guest_end
        .code64
guest_begin:
        cld
        mov     GUEST_PARAMS + PARAM_N_PAGES, %r8
        mov     GUEST_PARAMS + PARAM_LOW_PAGES, %r9
        mov     GUEST_PARAMS + PARAM_HIGH_SHIFT, %r10
        mov     GUEST_PARAMS + PARAM_SEED, %r11
        mov     GUEST_PARAMS + PARAM_ORDER_MASK, %rbp

        /* KVM keeps its clock in the middle of this page. */
        mov     $CLOCK_FILL, %rax
        mov     $GUEST_CLOCK, %edi
        mov     $CLOCK_OFFSET / 8, %ecx
        rep stosq
        add     $CLOCK_WORDS * 8, %rdi
        mov     $512 - CLOCK_WORDS - CLOCK_OFFSET / 8, %ecx
        rep stosq

        mov     $1, %r14d
        walk_begin fill
        page_locate
        test    %rax, %rax
        jz      fill_next
        mov     $PAGE_WORDS, %ecx
        rep stosq
        not     %rax
        mov     $PAGE_MARKS, %ecx
        rep stosq
        walk_end fill

        out     %al, $PORT_SNAPSHOT

        /* Second life. */
        out     %al, $PORT_ALIVE
        in      $PORT_INDEX, %eax
        mov     %eax, %r15d
        in      $PORT_MULTIPLIER, %eax
        mov     %eax, %r14d
        in      $PORT_WHOLE, %eax
        mov     %eax, %r12d
        xor     %ebx, %ebx

        /* Had KVM's first write to its clock not waited for the page, its neighbours would be zeros. */
        mov     $CLOCK_FILL, %rax
        mov     $GUEST_CLOCK, %edi
        words_check (CLOCK_OFFSET/8)
        add     $CLOCK_WORDS * 8, %rdi
        words_check (512-CLOCK_WORDS-CLOCK_OFFSET/8)

        walk_begin verify
        page_locate
        test    %r12d, %r12d
        jz      verify_some
        words_check PAGE_WORDS
        jmp     verify_mark
verify_some:
        word_check
        movzbl  %r13b, %ecx             /* another word in each page */
        lea     8(%rdi, %rcx, 8), %rdi
        word_check
        neg     %rcx
        lea     PAGE_WORDS * 8 - 16(%rdi, %rcx, 8), %rdi
        word_check
        add     $8, %rdi
verify_mark:
        lea     (%rdi, %r15, 8), %rdi
        test    %rax, %rax
        jz      1f
        not     %rax
1:      word_check
        lea     1(%r13, %r15), %rax
        mov     %rax, (%rdi)
        walk_end verify

        walk_begin marks
        page_locate
        word_check
        lea     PAGE_WORDS * 8(%rdi, %r15, 8), %rdi
        lea     1(%r13, %r15), %rax
        word_check
        walk_end marks

        /* Memory comes and goes: all of it is summed up, so that the VMM can tell what was seen, and each page is
         * written to. */
plugged:
        in      $PORT_PLUGGED, %eax
        test    %eax, %eax
        jz      done
        mov     %eax, %ecx
        shl     $9, %rcx
        mov     $GUEST_PLUG, %edi
        xor     %eax, %eax
2:      rol     $1, %rax
        add     (%rdi), %rax
        test    $0xfff, %edi
        jnz     1f
        notq    (%rdi)
1:      add     $8, %rdi
        dec     %rcx
        jnz     2b
        out     %al, $PORT_SUM
        jmp     plugged

done:
        out     %al, $PORT_DONE
halt:
        hlt
        jmp     halt
guest_end:

        .section .note.GNU-stack, "", @progbits
