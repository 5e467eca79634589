/* SPDX-License-Identifier: MIT */
/*
 * This process as a peer of the broker: a connection without a session, and one userfaultfd.
 *
 * Made early (in the constructor, or in the child right after a fork), because a program may put itself under a
 * seccomp filter that knows no ioctl, connect or poll. After that only sendmsg() and recvmsg() are used, which every
 * program that is handed guest memory over a socket has. But for a restart of the broker: what is mapped needs nothing
 * from us then, the next mapping needs a new connection.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/message.h"

struct attached_memory {
        int fd;          /* -1 once taken */
        uint64_t device; /* st_dev and st_ino */
        uint64_t inode;
        uint64_t size;
        uint64_t backing_size;
        char name[PB_NAME_SIZE];
};

struct attachment_options {
        const char *address; /* stays the caller's */
        uint32_t role;
        uint64_t reconnect_us; /* how long a mapping waits for the next broker; 0: not */
};

struct attachment {
        int socket;      /* -1: not attached */
        ino_t socket_id; /* its inode: a program that closes all descriptors may have put another one in its place */
        int uffd;        /* kept for life: the last close of a userfaultfd releases its threads onto zero pages */
        uint32_t peer;
        uint64_t serial;
        uint64_t epoch; /* of the broker that we last talked to */
        struct attachment_options options;
        unsigned n_memories;
        struct attached_memory memories[PB_MEMORIES_MAX];
        char reason[PB_TEXT_SIZE]; /* why the last call failed, in the broker's or our words */
};

#define ATTACHMENT_INIT ((struct attachment) { .socket = -1, .uffd = -1 })

/* Connects, creates the userfaultfd and hands it over. Allocates nothing. On failure `attachment->reason` is set. */
int attachment_open(struct attachment *attachment, const struct attachment_options *options);

/* The same when there was a broker before: waits for the next one if it is being restarted. */
int attachment_open_again(struct attachment *attachment, const struct attachment_options *options);

/* Has the broker register a shared mapping of memory `memory`; returns when that is done. If the broker has been
 * restarted, the next one does it: it knows our userfaultfd. Not thread-safe. */
int attachment_map(struct attachment *attachment, unsigned memory, uintptr_t address, uint64_t length, uint64_t offset);

/* The range is not mapped any more. Says nothing if the broker cannot be told. */
void attachment_unmap(struct attachment *attachment, uintptr_t address, uint64_t length);

/* Closes the descriptors of the memories that have not been taken. */
void attachment_drop_memories(struct attachment *attachment);

/* In a fork's child: closes our duplicates of what stays the parent's. */
void attachment_forget(struct attachment *attachment);
