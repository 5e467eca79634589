/* SPDX-License-Identifier: MIT */
/* The command line and the configuration file, and nothing else: what they say is carried out elsewhere. */
#pragma once

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/numa-policy.h"
#include "broker/pager.h"
#include "broker/source.h"
#include "broker/session.h"
#include "protocol/message.h"

#define ALLOW_MAX 64u

struct option_memory {
        char name[PB_NAME_SIZE];
        char *source;           /* NULL: zeros */
        char *layers[SOURCE_PARTS_MAX - 1]; /* over it, from the lowest on */
        unsigned n_layers;
        char *checksums;        /* NULL: none */
        uint64_t size;          /* bytes; 0: what the source has from source_offset on */
        uint64_t source_offset; /* bytes */
        uint64_t backing_size;  /* bytes; 0: --huge or 4096 */
        bool plugged;           /* false: comes when a VMM asks for it, and may go */
        struct numa_policy numa;
};

struct option_region {
        char memory[PB_NAME_SIZE];
        uint64_t gpa, size, offset; /* bytes */
        struct numa_policy numa;    /* in place of the memory's */
};

struct option_allow {
        enum pb_role role;
        bool is_group;
        uid_t uid; /* one of both */
        gid_t gid;
};

struct options {
        char name[PB_NAME_SIZE];
        char *socket;
        char *user;
        char *bus; /* "none", "system", "session" or an address; NULL: the system's, if it can be reached */
        char *working_set_record, *working_set_replay; /* files; NULL: not asked for */
        struct option_memory memories[PB_MEMORIES_MAX];
        unsigned n_memories;
        struct option_region regions[PB_REGIONS_MAX];
        unsigned n_regions;
        struct option_allow allow[ALLOW_MAX];
        unsigned n_allow;
        uint64_t backing_size; /* --huge */
        uint64_t fault_around; /* bytes */
        uint64_t release_timeout_us; /* of a memory that is to leave */
        unsigned client_limit;
        struct session_limits client; /* each one's */
        unsigned client_descriptors;  /* userfaultfds that each may hand over */
        uint64_t heal_interval_us; /* 0: never by itself */
        bool seccomp;
        uint64_t memory_headroom; /* bytes; 0: not asked for */
        bool collapse; /* onto huge pages, once complete */
        bool gigantic_faults; /* userfaultfd on 1 GiB pages */
        int log_level; /* syslog(3) priority */
        struct pager_options pager;
};

enum options_result {
        OPTIONS_RUN,
        OPTIONS_EXIT,  /* --help, --version: printed */
        OPTIONS_CHECK, /* --check */
};

/* Prints to standard error what is wrong with which option, in which line of which file, and returns -EINVAL. */
int options_parse(struct options *options, int argc, char *argv[]);
void options_done(struct options *options);

/* "64K", "4G", "4096": bytes. -EINVAL, -ERANGE. */
int options_parse_size(const char *text, uint64_t *ret);

/* All long options there are, ended by a name of NULL. */
const struct option *options_table(void);
