/* SPDX-License-Identifier: MIT */
/* What the journal is told, by a journal of the test's own; and that nobody waits for one that does not listen. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fd.h"
#include "common/log.h"
#include "tests/lib/test.h"

static char dir[64], path[96];

static int journal_start(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        (void) snprintf(dir, sizeof dir, "/tmp/pagebroker-log-XXXXXX");
        cr_assert(mkdtemp(dir) != NULL);
        (void) snprintf(path, sizeof path, "%s/socket", dir);
        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
        cr_assert(fd >= 0 && bind(fd, (const struct sockaddr *) &address, sizeof address) == 0);
        log_open("program", "web1");
        log_open_journal(path);
        return fd;
}

static void journal_end(int fd) {
        (void) fd_close(fd);
        (void) unlink(path);
        (void) rmdir(dir);
        log_close();
}

/* The next entry; "" if there is none. */
static const char *next_entry(int journal) {
        static char entry[4096];
        ssize_t n = recv(journal, entry, sizeof entry - 1, 0);

        entry[n < 0 ? 0 : n] = 0;
        return entry;
}

TEST(log_journal, gets_an_entry_with_fields) {
        int journal = journal_start();

        log_event(LOG_WARNING, (.id = "0dd47266091a42fabda6c97bce539fc1", .client = "disk", .memory = "ram"), "page %d", 7);
        cr_assert_str_eq(next_entry(journal), "MESSAGE=page 7\n"
                                              "PRIORITY=4\n"
                                              "SYSLOG_IDENTIFIER=program\n"
                                              "PAGEBROKER_VM=web1\n"
                                              "MESSAGE_ID=0dd47266091a42fabda6c97bce539fc1\n"
                                              "PAGEBROKER_CLIENT=disk\n"
                                              "PAGEBROKER_MEMORY=ram\n");
        journal_end(journal);
}

TEST(log_journal, plain_line_has_only_the_fields_of_all) {
        int journal = journal_start();

        log_info("ready");
        cr_assert_str_eq(next_entry(journal), "MESSAGE=ready\nPRIORITY=6\nSYSLOG_IDENTIFIER=program\nPAGEBROKER_VM=web1\n");
        journal_end(journal);
}

TEST(log_journal, gets_no_field_that_a_client_has_put_into_its_name) {
        int journal = journal_start();

        log_event(LOG_INFO, (.client = "disk\nPRIORITY=0"), "client disk\nMESSAGE_ID=x");
        cr_assert(strstr(next_entry(journal), "\nPAGEBROKER_CLIENT=disk?PRIORITY=0\n"));
        journal_end(journal);
}

TEST(log_journal, gets_nothing_below_the_level) {
        int journal = journal_start();

        log_debug("not shown");
        cr_assert_str_empty(next_entry(journal));
        journal_end(journal);
}

/* Would log_write() wait, this test would never end. */
TEST(log_journal, that_does_not_read_is_not_waited_for_and_is_told_what_it_missed) {
        int journal = journal_start();
        unsigned kept = 0;
        char text[64];

        for (unsigned i = 0; i < 5000; i++)
                log_info("line %u", i);
        for (const char *entry; *(entry = next_entry(journal)); kept++) {
                (void) snprintf(text, sizeof text, "MESSAGE=line %u\n", kept);
                cr_assert(strncmp(entry, text, strlen(text)) == 0, "%s", entry);
        }
        cr_assert(kept > 0 && kept < 5000);
        log_info("after");
        (void) snprintf(text, sizeof text, "MESSAGE=%u lines were left out", 5000 - kept);
        cr_assert(strncmp(next_entry(journal), text, strlen(text)) == 0);
        cr_assert(strncmp(next_entry(journal), "MESSAGE=after\n", 14) == 0);
        journal_end(journal);
}

/* ---- standard error instead ---- */

static void redirect(int fd, int *ret_saved) {
        *ret_saved = dup(STDERR_FILENO);
        cr_assert(*ret_saved >= 0 && dup2(fd, STDERR_FILENO) >= 0);
}

static void restore(int saved) {
        cr_assert(dup2(saved, STDERR_FILENO) >= 0);
        (void) close(saved);
}

TEST(log_journal, that_is_gone_leaves_standard_error) {
        int journal = journal_start(), file = memfd_new("log", 0, 4096), saved;
        char text[256] = "";

        journal = fd_close(journal);
        (void) unlink(path);
        redirect(file, &saved);
        log_info("ready");
        restore(saved);
        cr_assert(pread(file, text, sizeof text - 1, 0) > 0);
        cr_assert_str_eq(text, "program[web1]: ready\n");
        (void) close(file);
        journal_end(journal);
}

static void fill_and_drain(const int ends[2]) {
        char text[1 << 16];
        size_t length = 0;
        ssize_t n;
        int saved;

        log_open("program", "web1");
        redirect(ends[1], &saved);
        for (unsigned i = 0; i < 100000; i++) /* more than any pipe or socket holds */
                log_info("line %u", i);
        /* Everything that it holds, so that there is room. */
        while ((n = recv(ends[0], text, sizeof text, MSG_DONTWAIT)) > 0 ||
               (n < 0 && errno == ENOTSOCK && (n = read(ends[0], text, sizeof text)) > 0))
                length += (size_t) n;
        cr_assert(length > 0);
        log_info("after");
        restore(saved);
        n = recv(ends[0], text, sizeof text - 1, MSG_DONTWAIT);
        if (n < 0)
                n = read(ends[0], text, sizeof text - 1);
        text[n < 0 ? 0 : n] = 0;
        cr_assert(strstr(text, "lines were left out: the log did not take them\nprogram[web1]: after\n"), "%s", text);
        (void) close(ends[0]);
        (void) close(ends[1]);
}

TEST(log_plain, pipe_that_nobody_reads_is_not_waited_for) {
        int ends[2];

        cr_assert(pipe2(ends, O_CLOEXEC) == 0);
        cr_assert(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0); /* our end only */
        fill_and_drain(ends);
}

TEST(log_plain, socket_that_nobody_reads_is_not_waited_for) {
        int ends[2];

        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        fill_and_drain(ends);
}
