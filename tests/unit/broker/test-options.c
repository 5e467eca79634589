/* SPDX-License-Identifier: MIT */
/* The command line: what is taken, and each way of getting it wrong. */
#include "broker/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/macro.h"
#include "tests/lib/test.h"

#define ARGS_MAX 80

/* Parses copies: the parser writes into its arguments. */
static int parse(struct options *options, const char *const args[]) {
        char *argv[ARGS_MAX + 2] = { strdup("pagebrokerd") };
        int argc = 1, r;

        for (; *args && argc < ARGS_MAX; args++)
                argv[argc++] = strdup(*args);
        optind = 0; /* glibc: start anew */
        r = options_parse(options, argc, argv);
        for (int i = 0; i < ARGS_MAX; i++)
                free(argv[i]); /* getopt only permutes them */
        return r;
}

#define PARSE(options, ...) parse((options), (const char *const[]) { __VA_ARGS__, NULL })

/* ---- sizes ---- */

TEST(size, is_a_number_with_a_unit) {
        static const struct {
                const char *text;
                uint64_t value;
        } good[] = {
                { "0", 0 },
                { "4096", 4096 },
                { "0x1000", 4096 },
                { "4K", 4096 },
                { "4k", 4096 },
                { "3M", 3ull << 20 },
                { "2G", 2ull << 30 },
                { "1T", 1ull << 40 },
                { "16777215T", 16777215ull << 40 },
                { "18446744073709551615", UINT64_MAX },
        };
        uint64_t value;

        for (unsigned i = 0; i < ELEMENTS(good); i++) {
                cr_assert_eq(options_parse_size(good[i].text, &value), 0, "%s", good[i].text);
                cr_assert_eq(value, good[i].value, "%s", good[i].text);
        }
}

TEST(size, that_is_none_is_refused) {
        static const char *const bad[] = { "", "K", "-1", "+1", " 1", "1 ", "1KB", "1KiB", "1P", "1.5G", "0xg", "ten" };
        static const char *const large[] = { "18446744073709551616", "16777216T", "99999999999999999999" };
        uint64_t value = 5;

        for (unsigned i = 0; i < ELEMENTS(bad); i++)
                cr_assert_eq(options_parse_size(bad[i], &value), -EINVAL, "'%s'", bad[i]);
        for (unsigned i = 0; i < ELEMENTS(large); i++)
                cr_assert_eq(options_parse_size(large[i], &value), -ERANGE, "'%s'", large[i]);
        cr_assert_eq(value, 5, "the output was touched");
}

/* ---- what is taken ---- */

TEST(options, have_defaults) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M"), OPTIONS_RUN);
        cr_assert_str_eq(options.name, "vm");
        cr_assert_eq(options.n_memories, 1);
        cr_assert_eq(options.memories[0].source, NULL);
        cr_assert_eq(options.backing_size, 4096);
        cr_assert_eq(options.fault_around, 64 << 10);
        cr_assert(options.pager.fill && options.seccomp);
        cr_assert_eq(options.n_regions + options.n_allow, 0);
        options_done(&options);
}

TEST(options, are_taken) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--name=web1", "--socket=/run/x", "--user=nobody", "--huge=2M", "--fill=off",
                           "--memory=ram0,size=1G,source=file:/a,,b,source-offset=8K,huge=1G", "--memory=ram1,source=file:/c",
                           "--region=0xc0000000,size=64K,memory=ram1,offset=4K", "--fault-around=128K",
                           "--source-timeout=0.5", "--source-retries=7", "--io=threads", "--allow=vmm:0",
                           "--allow=device-ro:65534", "--client-limit=9", "--client-requests=7", "--client-bytes=8M",
                           "--client-descriptors=3", "--seccomp=off", "--verbose"),
                     OPTIONS_RUN);
        cr_assert_str_eq(options.name, "web1");
        cr_assert_str_eq(options.socket, "/run/x");
        cr_assert_str_eq(options.user, "nobody");
        cr_assert_eq(options.backing_size, HUGE_2M);
        cr_assert(!options.pager.fill && !options.seccomp);
        cr_assert_str_eq(options.memories[0].source, "file:/a,b", "a doubled comma is one");
        cr_assert_eq(options.memories[0].size, HUGE_1G);
        cr_assert_eq(options.memories[0].source_offset, 8192);
        cr_assert_eq(options.memories[0].backing_size, HUGE_1G);
        cr_assert_eq(options.memories[1].size, 0);
        cr_assert_eq(options.regions[0].gpa, 0xc0000000);
        cr_assert_eq(options.regions[0].offset, 4096);
        cr_assert_str_eq(options.regions[0].memory, "ram1");
        cr_assert_eq(options.fault_around, 128 << 10);
        cr_assert_eq(options.pager.source_timeout_us, 500000);
        cr_assert_eq(options.pager.retry.retries, 7);
        cr_assert_eq(options.pager.reader, READER_THREADS);
        cr_assert_eq(options.allow[1].role, PB_AS_DEVICE_RO);
        cr_assert_eq(options.allow[1].uid, 65534);
        cr_assert_eq(options.client_limit, 9);
        cr_assert_eq(options.client.requests, 7);
        cr_assert_eq(options.client.slices, 32);
        cr_assert_eq(options.client_descriptors, 3);
        options_done(&options);
}

TEST(options, deadline_is_of_one_class_or_of_all) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--source-deadline=7", "--source-deadline=fill:0.5"),
                     OPTIONS_RUN);
        cr_assert_eq(options.pager.retry.deadline_us[CLASS_VCPU], 7000000);
        cr_assert_eq(options.pager.retry.deadline_us[CLASS_DEVICE], 7000000);
        cr_assert_eq(options.pager.retry.deadline_us[CLASS_PREFETCH], 7000000);
        cr_assert_eq(options.pager.retry.deadline_us[CLASS_FILL], 500000);
        options_done(&options);
}

TEST(options, user_may_be_allowed_by_name) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--allow=device:root"), OPTIONS_RUN);
        cr_assert_eq(options.allow[0].uid, 0);
        options_done(&options);
}

TEST(options, groups_may_be_allowed_by_name_and_number) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--allow=device:@root", "--allow=vmm:@4711"), OPTIONS_RUN);
        cr_assert(options.allow[0].is_group && options.allow[1].is_group);
        cr_assert_eq(options.allow[0].gid, 0);
        cr_assert_eq(options.allow[1].gid, 4711);
        options_done(&options);
}

TEST(options, last_one_counts) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--socket=/a", "--socket=/b", "--fill=off", "--fill=on"),
                     OPTIONS_RUN);
        cr_assert_str_eq(options.socket, "/b");
        cr_assert(options.pager.fill);
        options_done(&options);
}

TEST(options, fill_share_is_half_by_default) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--socket=/a", "--fill-share=0"), OPTIONS_RUN);
        cr_assert_eq(options.pager.fill_share, 0);
        options_done(&options);
        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--socket=/a"), OPTIONS_RUN);
        cr_assert_eq(options.pager.fill_share, 50);
        options_done(&options);
}

TEST(options, fill_rate_is_bytes_a_second_and_unlimited_by_default) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--socket=/a", "--fill-rate=50M"), OPTIONS_RUN);
        cr_assert_eq(options.pager.fill_rate, 50 << 20);
        options_done(&options);
        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--socket=/a"), OPTIONS_RUN);
        cr_assert_eq(options.pager.fill_rate, 0);
        options_done(&options);
}

/* ---- what is refused: the message names the option ---- */

static const struct {
        const char *arg;
        const char *words;
} refused[] = {
        { "--allow=device:@", "'@': no such group" },
        { "--allow=device:@no-such-group", "'@no-such-group': no such group" },
        { "--on-error=panic", "wait, poison or stop" },
        { "--heal-interval=-1", "--heal-interval" },
        { "--source-deadline=cpu:3", "classes are vcpu, device, prefetch, fill" },
        { "--source-deadline=fill:never", "seconds, from 0.001" },
        { "--memory=", "--memory: name ''" },
        { "--memory=bad/name,size=1M", "--memory: name 'bad/name'" },
        { "--memory=a-name-that-is-longer-than-any-name-may-be,size=1M", "1 to 31 characters" },
        { "--memory=ram0", "--memory=ram0: needs source=, or a size=" },
        { "--memory=ram0,size=0", "--memory=ram0: needs source=, or a size=" },
        { "--memory=ram0,size", "expected KEY=VALUE" },
        { "--memory=ram0,size=big", "--memory: size=big: not a size" },
        { "--memory=ram0,size=1M,huge=4M", "huge pages are 2M or 1G" },
        { "--memory=ram0,size=1M,colour=red", "unknown key 'colour'" },
        { "--memory=ram0,size=1M,backing=guest_memfd", "guest_memfd is refused" },
        { "--memory=ram0,size=1M,source-offset=100", "source-offset must be a multiple of 4096" },
        { "--region=x,size=1M,memory=ram0", "--region: gpa=x: not a size" },
        { "--region=0,memory=ram0", "needs size= and memory=" },
        { "--region=0,size=1M", "needs size= and memory=" },
        { "--region=0,size=1M,memory=ram0,end=2M", "unknown key 'end'" },
        { "--region=0,size=1M,memory=", "--region: name ''" },
        { "--region=", "--region: gpa=" },
        { "--huge=4K", "--huge: '4K'" },
        { "--fill=maybe", "--fill: 'maybe': on or off" },
        { "--seccomp=1", "--seccomp: '1': on or off" },
        { "--fill-rate=fast", "--fill-rate: 'fast': not a size" },
        { "--fill-share=101", "--fill-share" },
        { "--fill-share=half", "--fill-share" },
        { "--fault-around=2K", "--fault-around: '2K'" },
        { "--fault-around=12K", "a power of two" },
        { "--fault-around=1M", "from 4K to 256K" },
        { "--fault-around=wide", "--fault-around: 'wide': not a size" },
        { "--source-timeout=0", "seconds" },
        { "--source-timeout=nan", "seconds" },
        { "--source-timeout=1h", "seconds" },
        { "--source-timeout=", "seconds" },
        { "--source-timeout=100000", "seconds" },
        { "--source-retries=-1", "--source-retries: '-1': a number from 0 to 100" },
        { "--source-retries=101", "a number from 0 to 100" },
        { "--source-retries=", "a number from 0 to 100" },
        { "--source-retries=1x", "a number from 0 to 100" },
        { "--discard-timeout=0", "--discard-timeout" },
        { "--spin=100000", "--spin" },
        { "--io=aio", "--io: 'aio': auto, uring or threads" },
        { "--allow=device", "expected ROLE:USER" },
        { "--allow=device:", "expected ROLE:USER" },
        { "--allow=device-ro:root", "never granted to root" },
        { "--allow=king:0", "roles are vmm, device, device-ro, observer" },
        { "--allow=device:no-such-user", "no such user" },
        { "--allow=device:-1", "no such user" },
        { "--allow=device:4294967295", "no such user" },
        { "--memory=ram0,size=1M,numa-policy=near:0", "numa-policy 'near:0': policies are bind:NODES" },
        { "--memory=ram0,size=1M,numa-policy=bind:", "nodes are a list like" },
        { "--memory=ram0,size=1M,numa-policy=bind:x", "nodes are a list like" },
        { "--memory=ram0,size=1M,numa-policy=bind:1023", "of nodes that exist" },
        { "--region=0,size=1M,memory=ram0,numa-policy=near:0", "--region: numa-policy 'near:0': policies are" },
        { "--memory-headroom=much", "--memory-headroom: 'much': not a size" },
        { "--collapse=yes", "--collapse: 'yes': on or off" },
        { "--client-requests=0", "a number from 1 to 1024" },
        { "--client-requests=1025", "a number from 1 to 1024" },
        { "--client-bytes=4095K", "from 4M to 16G" },
        { "--client-bytes=17G", "from 4M to 16G" },
        { "--client-descriptors=257", "a number from 1 to 256" },
        { "--client-limit=0", "a number from 1 to 4096" },
        { "--client-limit=5000", "a number from 1 to 4096" },
        { "--name=", "--name: name ''" },
        { "--name=web/1", "--name: name 'web/1'" },
        { "--bogus", "bogus" },
        { "word", "unexpected argument 'word'" },
};

/* What is said on standard error meanwhile. */
static int parse_listening(const char *arg, char *ret, size_t size) {
        _cleanup_close_ int file = memfd_new("said", 0, 4096), saved = dup(STDERR_FILENO);
        struct options options;
        ssize_t n;
        int r;

        cr_assert(file >= 0 && saved >= 0 && dup2(file, STDERR_FILENO) >= 0);
        r = PARSE(&options, "--memory=other,size=1M", arg);
        cr_assert(dup2(saved, STDERR_FILENO) >= 0);
        options_done(&options);
        n = pread(file, ret, size - 1, 0);
        ret[n < 0 ? 0 : n] = 0;
        return r;
}

TEST(options, that_are_wrong_are_refused_by_name) {
        char said[1024];

        for (unsigned i = 0; i < ELEMENTS(refused); i++) {
                int r = parse_listening(refused[i].arg, said, sizeof said);

                cr_assert_eq(r, -EINVAL, "%s: %d", refused[i].arg, r);
                cr_assert(strstr(said, refused[i].words), "%s: '%s' is not in: %s", refused[i].arg, refused[i].words,
                          said);
        }
}

TEST(options, memory_name_is_taken_once) {
        struct options options;

        cr_assert_eq(PARSE(&options, "--memory=ram0,size=1M", "--memory=ram0,size=1M"), -EINVAL);
        options_done(&options);
        cr_assert_eq(PARSE(&options, "--verbose"), -EINVAL, "no memory at all");
        options_done(&options);
}

static int parse_many(const char *form, unsigned n) {
        static char texts[ARGS_MAX][64];
        const char *args[ARGS_MAX + 1] = {};
        struct options options;
        int r;

        args[0] = "--memory=first,size=1M";
        for (unsigned i = 1; i < n; i++) {
                (void) snprintf(texts[i], sizeof texts[i], "%s%u%s", form, i, strchr(form, 'm') == form + 2 ? ",size=1M" : "");
                args[i] = texts[i];
        }
        r = parse(&options, args);
        options_done(&options);
        return r;
}

TEST(options, lists_have_an_end) {
        cr_assert_eq(parse_many("--memory=m", PB_MEMORIES_MAX), OPTIONS_RUN);
        cr_assert_eq(parse_many("--memory=m", PB_MEMORIES_MAX + 1), -EINVAL);
        cr_assert_eq(parse_many("--region=0,size=4K,memory=m", PB_REGIONS_MAX + 1), OPTIONS_RUN);
        cr_assert_eq(parse_many("--region=0,size=4K,memory=m", PB_REGIONS_MAX + 2), -EINVAL);
        cr_assert_eq(parse_many("--allow=device:", ALLOW_MAX + 1), OPTIONS_RUN);
        cr_assert_eq(parse_many("--allow=device:", ALLOW_MAX + 2), -EINVAL);
}
