/* SPDX-License-Identifier: MIT */
/*
 * libpagebroker: touch a virtual machine's memory before it is there.
 *
 * A process that shares guest memory with a VMM (a vhost-user backend, an emulator, the VMM itself) links this
 * library and calls pb_ensure() before it touches guest memory, by load, by store, by system call or by descriptor.
 * If the pages are present that is one load and a mask per 32 pages; if not, the call waits until the broker has
 * fetched them.
 *
 * Conventions
 *  - Functions return 0 or a positive count on success and a negative errno on failure; outputs (`ret...`) are
 *    untouched on failure. pb_explain() puts the last failure of the calling thread in words.
 *  - Guest-physical addresses ("gpa"), lengths and offsets are in bytes; a "page" is always PB_PAGE_SIZE bytes,
 *    whatever page size backs the memory.
 *  - Every function may be called from every thread at once. After fork() the child's calls return -ECHILD: it must
 *    connect anew. pb_ensure(), pb_ensurev(), pb_is_present() and pb_translate() may be called inside a signal handler.
 *  - The library creates no thread, installs no signal handler and keeps no global state.
 *
 * The header is clean under C99 (with the GNU atomic builtins that gcc and clang have) and C++.
 */
#ifndef PAGEBROKER_H
#define PAGEBROKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PB_PAGE_SHIFT 12
#define PB_PAGE_SIZE 4096u

typedef struct pb_client pb_client;

/* What the caller is going to do. Mandatory: 0 is -EINVAL. */
enum {
        PB_READ = 1,      /* look at the bytes */
        PB_WRITE = 2,     /* change some of the bytes (implies PB_READ) */
        PB_OVERWRITE = 3, /* write all of the bytes: whole pages inside the range become present as zeros without a
                             fetch, only the partial pages at both ends are fetched. Only for a buffer that belongs
                             to the caller (a descriptor that the guest gave to the device for writing). */
};

/* Who the caller is. The broker grants a role by the caller's uid. */
enum {
        PB_ROLE_DEVICE = 1,    /* reads and writes guest memory */
        PB_ROLE_DEVICE_RO = 2, /* reads guest memory; must run under another uid than the broker's */
        PB_ROLE_VMM = 3,       /* as DEVICE, and may discard, hand over userfaultfds, switch the fill */
        PB_ROLE_OBSERVER = 4,  /* counters only: gets no memory */
};

/* Flags of struct pb_options. */
enum {
        PB_OPT_COUNT_LOST_WAKES = 1u << 0, /* tests: a wait whose bit was set while 1000 further slices, or 10 s,
                                              brought no wake is counted; see pb_get_counters() */
};

/* Zero means default everywhere but in `size` and `role`. */
struct pb_options {
        size_t size;         /* sizeof(struct pb_options) */
        uint32_t role;       /* PB_ROLE_* */
        uint32_t flags;      /* PB_OPT_* */
        const char *name;    /* shown to admins; at most 31 bytes; default: the program's short name */
        int64_t timeout_us;  /* bound on each pb_ensure()/pb_ensurev(); 0: none while the broker lives */
        uint32_t slice_us;   /* how often a waiter looks after the broker; default 20000 */
        int32_t spin_us;     /* how long to spin while the pager is awake on another CPU; default 50; -1: never */
        int64_t reconnect_us; /* how long to wait for the next broker when this one has ended; default 30000000; -1: not
                                 at all. With an inherited socket ("fd:N") never */
};

struct pb_region {
        uint32_t index;
        uint32_t memory;    /* which memory (memfd and map) it lies in */
        uint64_t gpa;       /* first guest-physical address, bytes */
        uint64_t size;      /* bytes */
        uint64_t offset;    /* of the region in its memory, bytes */
        uint64_t page_size; /* of the backing: 4096, 2 MiB or 1 GiB */
        void *addr;         /* where this process has it mapped */
        int fd;             /* the memory's memfd, owned by the client object; -1 for an observer */
        uint32_t flags;     /* PB_REGION_* */
};

enum {
        PB_REGION_READONLY = 1u << 0,
        PB_REGION_GONE = 1u << 1, /* released: no address, size 0; its index may be used again */
};

/* Memory that comes and goes: pb_get_event(). */
enum {
        PB_EVENT_REGION_ADDED = 1,   /* mapped already: pb_get_region() describes it */
        PB_EVENT_REGION_LEAVING = 2, /* stop using it, then pb_release_region() */
};

struct pb_event {
        uint32_t type;   /* PB_EVENT_* */
        uint32_t region; /* its index */
};

/* Where a memory that is plugged in shall appear. Multiples of the memory's page size. */
struct pb_memory_region {
        uint64_t gpa;
        uint64_t size;   /* bytes */
        uint64_t offset; /* in the memory, bytes */
};

/* One piece of a scattered access. */
struct pb_range {
        uint64_t gpa;
        uint64_t len;
        uint32_t intent; /* PB_READ, PB_WRITE or PB_OVERWRITE */
        uint32_t reserved; /* must be 0 */
};

/* The outcome of one pb_submit(). */
struct pb_completion {
        uint64_t cookie;
        int32_t result; /* 0, or a negative errno as pb_ensure() returns it */
        uint32_t reserved;
};

/* Counters of one client object. */
struct pb_counters {
        size_t size;           /* set to sizeof(struct pb_counters) before the call */
        uint64_t slow_calls;   /* calls that found an absent page */
        uint64_t sleeps;       /* futex waits */
        uint64_t slices;       /* waits that ended by their slice */
        uint64_t lost_wakes;   /* see PB_OPT_COUNT_LOST_WAKES; anything but 0 is a bug */
        uint64_t spins_won;    /* waits that a spin ended without sleeping */
};

/* What the broker counts, for one memory or for all. */
struct pb_stats {
        size_t size;              /* set to sizeof(struct pb_stats) before the call */
        uint64_t pages_total;     /* pages of all memories */
        uint64_t pages_data;      /* of these, pages that the source has data for (holes are the rest) */
        uint64_t pages_present;
        uint64_t pages_data_present;
        uint64_t pages_poisoned;
        uint64_t pages_in_flight;
        uint64_t faults_linked;   /* demand requests by linked clients that found an absent page */
        uint64_t faults_peer;     /* faults read from userfaultfds */
        uint64_t bytes_fetched;   /* read from the source */
        uint64_t clients;         /* connected now */
        uint64_t peers;           /* userfaultfds served now */
        uint32_t complete;        /* 1: every page of every memory is present */
        uint32_t fill;            /* 1: the background fill is on */
        uint64_t sources_lost;    /* memories whose source has changed since the start: what is absent cannot be had */
        uint64_t pages_left_out;  /* absent, and the background fill tries them no more: their source does not give them */
};

/*
 * Connects to the broker and maps all guest memory that the role may have.
 *
 * `address`: the path of the broker's socket, or "fd:N" for a connected socket inherited from the supervisor.
 * `options`: must name a role.
 * Errors: -EINVAL (options), -ENOENT/-ECONNREFUSED (nobody there), -EACCES (role not granted to this uid),
 * -EPROTO (not a broker, or a bad one), -EPROTONOSUPPORT (versions do not meet), -EMFILE, -ENOMEM, -ETIMEDOUT (no answer
 * within 10 s), -ECONNRESET, -EBADF ("fd:N"), -ENAMETOOLONG (path).
 * "fd:N" stays the caller's descriptor; but the connection ends with pb_disconnect() whoever else holds it.
 */
int pb_connect(pb_client **ret, const char *address, const struct pb_options *options);

/* Ends the session and unmaps guest memory. No other call on `client` may be running. Accepts and returns NULL. */
pb_client *pb_disconnect(pb_client *client);

/* Describes region `index`. -ENOENT past the last one. */
int pb_get_region(pb_client *client, unsigned index, struct pb_region *ret);

/* The address of [gpa, gpa+len) in this process, or NULL if it does not lie inside one region. Does not ensure. */
void *pb_translate(pb_client *client, uint64_t gpa, size_t len);

/*
 * Makes [gpa, gpa+len) accessible: returns 0 once every page of it is present. `len` 0 is 0.
 * The range may span adjacent regions.
 *
 * Errors: -EINVAL (intent), -EFAULT (outside every region), -EACCES (the role may not write), -EIO (a page is
 * poisoned: pb_explain() says why), -ENOMEM (no memory or huge page to back it), -ETIMEDOUT, -ECONNRESET (the broker
 * is gone, and no other one has come after it within reconnect_us), -EPROTO (a broker that says present what is not), -ECHILD (after fork); and what futex_waitv(2) says
 * where a system-call filter forbids it.
 */
static inline int pb_ensure(pb_client *client, uint64_t gpa, size_t len, unsigned intent);

/* The same for `n` ranges, asked for in one go: a descriptor chain. Stops at the first error. */
int pb_ensurev(pb_client *client, const struct pb_range *ranges, unsigned n);

/* True if every page of the range is present now. False outside every region. Never blocks, makes no call when all
 * of it lies in one region. */
static inline bool pb_is_present(const pb_client *client, uint64_t gpa, size_t len);

/*
 * Asks without waiting. The outcome arrives as a completion with `cookie`.
 * Returns 1 if every page is present already (then no completion follows), 0 if the request is under way,
 * -EAGAIN if 1024 requests are outstanding (reap first), -EINVAL for more than 10240 separate ranges, else an error as
 * pb_ensure(). When the broker is gone for good every outstanding cookie completes with -ECONNRESET.
 */
int pb_submit(pb_client *client, const struct pb_range *ranges, unsigned n, uint64_t cookie);

/* A descriptor that polls readable when pb_reap() may have something. Owned by the client object. */
int pb_get_fd(pb_client *client);

/* Takes up to `max` completions. Returns their number, 0 when there are none, -ECONNRESET when the broker is gone
 * and none is left. One thread at a time should reap; several may. */
int pb_reap(pb_client *client, struct pb_completion *ret_completions, unsigned max);

/* A hint: fetch this soon. Returns at once. -EAGAIN when too much is outstanding. A failing prefetch does no harm. */
int pb_prefetch(pb_client *client, uint64_t gpa, size_t len);

/*
 * The range is zeros from now on, and its memory is given back where that is possible. Role VMM only; gpa and len are
 * multiples of PB_PAGE_SIZE. Returns when it is done. Until then the content is undefined and must not be used;
 * -ETIMEDOUT means "not done yet": the range stays undefined until a later discard of it succeeds.
 */
int pb_discard(pb_client *client, uint64_t gpa, size_t len);

/*
 * Takes the next event: returns 1, or 0 if there is none. pb_get_fd() polls readable when there may be one; a program
 * without an event loop asks now and then. A region that was added may be used once its event has been taken.
 * Errors: -ECONNRESET; if the region of an event cannot be mapped or attached, why.
 */
int pb_get_event(pb_client *client, struct pb_event *ret);

/*
 * The caller has made its last use of a region: no thread of it touches its addresses any more, nothing is pinned, no call
 * on it is under way. It is unmapped here once all regions of its memory are released, and the broker is told. -ENOENT.
 */
int pb_release_region(pb_client *client, unsigned index);

/*
 * Role VMM: plugs in a memory that the broker was started with (--memory=NAME,...,plugged=off), and returns its index. All
 * clients get events; the caller's new regions are there when this returns (and, after pb_attach_vmm(), attached).
 * -ENOENT (no such memory), -EEXIST (it is plugged in, or still leaving), -EINVAL, -ENOSPC, -EACCES.
 */
int pb_add_memory(pb_client *client, const char *name, const struct pb_memory_region *regions, unsigned n);

/*
 * Role VMM: asks everybody to release a memory, and waits until they have. Release its regions here first. 0: it is gone, all
 * zeros if it is ever plugged in again. -EBUSY: somebody still uses it when the broker's limit has passed (pb_explain()
 * says who); it goes on leaving and stays usable for them; ask again. -ENOENT (also: it has left meanwhile), -EACCES, -EPERM
 * (it was there from the start).
 */
int pb_remove_memory(pb_client *client, unsigned memory);

/* Options of pb_attach_vmm(). Zero means default. */
struct pb_vmm_options {
        size_t size;            /* sizeof(struct pb_vmm_options) */
        uint32_t flags;         /* must be 0 */
        uint32_t shards;        /* userfaultfds per region, each for a slice of it; default 1, at most 64 */
};

/*
 * Role VMM: puts this process's mappings of guest memory (those of pb_get_region()) under userfaultfd and hands the
 * descriptors to the broker, so that plain accesses, system calls and KVM's accesses wait for absent pages.
 * Call it before anything touches the mappings and before vCPU state is restored. Keeps a duplicate of every
 * descriptor for the life of the process, so that nobody is released onto zero pages should the broker die.
 * Errors: -EACCES (role), -EBUSY (called before), -EOPNOTSUPP (kernel), else what the kernel said.
 */
int pb_attach_vmm(pb_client *client, const struct pb_vmm_options *options);

/* Role VMM: switches the background fill on or off. */
int pb_set_fill(pb_client *client, bool on);

/*
 * Role VMM: poisoned pages of [gpa, gpa+len) become absent again, so that whoever wants one asks the source anew, and
 * faults that wait for one go on. `gpa` and `len` 0: every page of every memory. What lies in no region is left out.
 * `ret_healed` (NULL if it does not matter): how many pages were.
 * Errors: -EACCES (role), -EINVAL, -ESTALE (the source is another one than at the start: nothing of it is healed).
 */
int pb_heal(pb_client *client, uint64_t gpa, uint64_t len, uint64_t *ret_healed);

/* Reads the broker's counters. Works for every role. */
int pb_get_stats(pb_client *client, struct pb_stats *ret);

/* Reads the counters of this client object. */
int pb_get_counters(pb_client *client, struct pb_counters *ret);

/* The calling thread's last failure in words: which page, which source, why. Never NULL. The text stays until the
 * thread's next failing call. Asks the broker (may block for a moment): not for signal handlers. */
const char *pb_explain(pb_client *client);

/* ---- what follows is the inline fast path; its layout is versioned with the library's ABI ---- */

struct pb_view {
        uint64_t gpa;
        uint64_t size;
        uint64_t first_page;        /* of the region, in its memory's map */
        const uint32_t *words;      /* present bitmap of its memory: page n is bit n % 32 of word n / 32 */
};

struct pb_prefix {
        uint32_t version;           /* 1 */
        uint32_t n_views;
        const struct pb_view *views; /* sorted by gpa */
        uint32_t may_write;         /* the role may pass PB_WRITE and PB_OVERWRITE */
        uint32_t complete;          /* everything is present: nothing left to test */
};

int pb_ensure_slow(pb_client *client, uint64_t gpa, size_t len, unsigned intent);
bool pb_is_present_slow(const pb_client *client, uint64_t gpa, size_t len);

#ifdef PB_TEST_PRESENT_ORDER /* the project's own test of this very order */
#define PB_PRESENT_ORDER PB_TEST_PRESENT_ORDER
#else
#define PB_PRESENT_ORDER __ATOMIC_ACQUIRE
#endif

/* Pages [first, last] present? The acquire pairs with the broker's publishing fetch_or(release): who sees the bit
 * sees the bytes. protocol/order.h has the same load for everybody inside the project. */
static inline bool pb_pages_are_present(const uint32_t *words, uint64_t first, uint64_t last) {
        for (;;) {
                uint64_t word = first / 32;
                uint32_t mask = ~(uint32_t) 0 << (first % 32);

                if (last / 32 == word)
                        mask &= ~(uint32_t) 0 >> (31 - last % 32);
                if ((__atomic_load_n(&words[word], PB_PRESENT_ORDER) & mask) != mask)
                        return false;
                if (last / 32 == word)
                        return true;
                first = (word + 1) * 32;
        }
}

static inline bool pb_is_present(const pb_client *client, uint64_t gpa, size_t len) {
        const struct pb_prefix *prefix = (const struct pb_prefix *) (const void *) client;
        const struct pb_view *view;
        uint32_t i;

        if (len == 0)
                return true;
        for (i = 0; i < prefix->n_views; i++) {
                view = &prefix->views[i];
                if (gpa - view->gpa >= view->size)
                        continue;
                if (len > view->size - (gpa - view->gpa))
                        break;
                return pb_pages_are_present(view->words, view->first_page + ((gpa - view->gpa) >> PB_PAGE_SHIFT),
                                            view->first_page + ((gpa - view->gpa + len - 1) >> PB_PAGE_SHIFT));
        }
        return pb_is_present_slow(client, gpa, len);
}

static inline int pb_ensure(pb_client *client, uint64_t gpa, size_t len, unsigned intent) {
        const struct pb_prefix *prefix = (const struct pb_prefix *) (const void *) client;

        if ((intent == PB_READ || (prefix->may_write && (intent == PB_WRITE || intent == PB_OVERWRITE))) &&
            pb_is_present(client, gpa, len))
                return 0;
        return pb_ensure_slow(client, gpa, len, intent);
}

#ifdef __cplusplus
}
#endif

#endif
