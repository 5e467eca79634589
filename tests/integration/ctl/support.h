/* SPDX-License-Identifier: MIT */
/* Runs pagebrokerctl; and brokers on a bus that say what a test wants. */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/lib/bus.h"
#include "tests/lib/test.h"

extern const char ctl_program[];

/* What the last run said. */
extern char ctl_out[262144], ctl_err[16384];

/* Runs it; `words` ends with NULL; uid 0: ours. Returns the exit status. */
int ctl_run(uid_t uid, const char *const *words);
#define CTL(...) ctl_run(0, (const char *const[]) { __VA_ARGS__, NULL })

/* It must end with `expected`; shows what it said otherwise. */
#define CTL_ENDS(expected, ...)                                                                      \
        do {                                                                                         \
                int _status = CTL(__VA_ARGS__);                                                      \
                cr_assert_eq(_status, (expected), "ended with %d: %s%s", _status, ctl_out, ctl_err); \
        } while (0)

/* Starts it in the background, with `out` (a descriptor) as its standard output. */
pid_t ctl_start(int out, const char *const *words);

/* ctl_out holds exactly one line, which is a JSON object. The caller puts it. */
json_object *ctl_json(void);

/* Numbers and texts of an object; they must be there. "sources/0/pages_total": a path. */
uint64_t ctl_number(const json_object *object, const char *path);
const char *ctl_text(const json_object *object, const char *path);
bool ctl_is(const json_object *object, const char *path);

/* ---- a broker that is none ---- */

enum fake_mood {
        FAKE_FINE,
        FAKE_SILENT,   /* owns its name and answers nothing but Ping */
        FAKE_REFUSING, /* every method is denied */
        FAKE_ODD,      /* answers of other types than are documented */
        FAKE_FINDINGS, /* an audit finds something */
        FAKE_LAST,     /* answers when as many calls have come as fake_meet() has said, to it and to others */
};

/* Takes the service name; returns when it has it. `calls` (may be NULL) is a descriptor that gets a line for each call
 * that changes something. */
pid_t fake_start(const struct test_bus *bus, const char *service, enum fake_mood mood, int calls);
void fake_stop(pid_t pid);

/* For those with FAKE_LAST that are started from now on: they answer when each of `n` has been asked. */
void fake_meet(unsigned n);
