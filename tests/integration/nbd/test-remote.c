/* SPDX-License-Identifier: MIT */
/* What is behind a network: TLS with keys and certificates, HTTP and SSH through nbdkit's plugins. Every page is compared. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "tests/integration/basic/support.h"
#include "tests/lib/nbd.h"

#define N_PAGES 2048u

static struct test_image image;
static const struct test_image *const images[] = { &image };

static void make_image(struct test_nbd *nbd) {
        require_program("nbdkit");
        test_image_make(&image, &(struct test_image_spec) { .seed = 501, .n_pages = N_PAGES, .data_ppm = 500000 });
        test_nbd_prepare(nbd);
}

static void stop(struct test_nbd *nbd) {
        test_nbd_stop(nbd);
        test_image_unlink(&image);
}

/* While this socket, which does not listen, is bound to a port, the kernel gives that to nobody who asks for any, and a
 * server that asks for it by number (and for SO_REUSEADDR, as all do) gets it. */
static int reservation = -1;

static int reserve_port(void) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t size = sizeof address;
        int on = 1;

        reservation = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        cr_assert(reservation >= 0 && setsockopt(reservation, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
        cr_assert(bind(reservation, (struct sockaddr *) &address, size) == 0);
        cr_assert(getsockname(reservation, (struct sockaddr *) &address, &size) == 0);
        return ntohs(address.sin_port);
}

static bool port_listens(int port) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t) port) };
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        return fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof address) == 0;
}

static void restore(const char *uri, const char *more) {
        char memory[600];
        struct test_broker broker;
        pb_client *client;

        (void) snprintf(memory, sizeof memory, "--memory=ram0,source=nbd:%s", uri);
        TEST_BROKER_START(&broker, memory, "--fill=off", more);
        client = test_connect(&broker, PB_ROLE_DEVICE);
        for (uint64_t page = 0; page < N_PAGES; page += 256)
                cr_assert(ensure_is_right(client, images, page * TEST_PAGE, 256 * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
}

static void write_file(const char *path, const char *text) {
        _cleanup_fclose_ FILE *f = fopen(path, "we");

        cr_assert(f && fputs(text, f) >= 0);
}

/* ---- TLS ---- */

static void make_psk(struct test_nbd *nbd) {
        require_program("psktool");
        make_image(nbd);
        TEST_RUN("psktool", "-u", "web1", "-p", test_nbd_path(nbd, "psk"));
        TEST_RUN("chmod", "644", test_nbd_path(nbd, "psk"));
}

static void run_psk_server(struct test_nbd *nbd) {
        char option[300];

        (void) snprintf(option, sizeof option, "--tls-psk=%s", test_nbd_path(nbd, "psk"));
        TEST_NBDKIT(nbd, "--tls=require", option, "file", image.path);
}

TEST(tls, shared_key) {
        struct test_nbd nbd;
        char uri[400];

        make_psk(&nbd);
        run_psk_server(&nbd);
        (void) snprintf(uri, sizeof uri, "nbds+unix://web1@/?socket=%s&tls-psk-file=%s", nbd.socket, test_nbd_path(&nbd, "psk"));
        restore(uri, "-q");
        stop(&nbd);
}

TEST(tls, wrong_user_is_refused) {
        struct test_nbd nbd;
        char memory[500], log[4096];

        make_psk(&nbd);
        run_psk_server(&nbd);
        (void) snprintf(memory, sizeof memory, "--memory=ram0,source=nbd:nbds+unix://eve@/?socket=%s&tls-psk-file=%s", nbd.socket,
                        test_nbd_path(&nbd, "psk"));
        cr_assert_eq(test_broker_refuses((const char *const[]) { memory, NULL }, log, sizeof log), 1);
        cr_assert(strstr(log, "was not found in PSK file"), "%s", log);
        stop(&nbd);
}

/* Without TLS, from a server that demands it. */
TEST(tls, clear_text_is_refused) {
        struct test_nbd nbd;
        char log[4096];

        make_psk(&nbd);
        run_psk_server(&nbd);
        cr_assert_eq(test_broker_refuses((const char *const[]) { test_nbd_memory("ram0", &nbd, ""), NULL }, log, sizeof log), 1);
        cr_assert(strstr(log, "server requires TLS"), "%s", log);
        stop(&nbd);
}

/* The key is read again, under the helper's filter, by the user that it has become. */
TEST(tls, is_made_anew_with_a_server_that_comes_back) {
        struct test_nbd nbd;
        struct test_broker broker;
        struct ensure_call call;
        pb_client *client;
        char memory[500];

        require_other_uid();
        make_psk(&nbd);
        run_psk_server(&nbd);
        (void) snprintf(memory, sizeof memory, "--memory=ram0,source=nbd:nbds+unix://web1@/?socket=%s&tls-psk-file=%s", nbd.socket,
                        test_nbd_path(&nbd, "psk"));
        TEST_BROKER_START(&broker, memory, "--fill=off", "--user=65534", "--seccomp=on");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, 300 * TEST_PAGE));
        test_nbd_kill(&nbd);
        ensure_start(&call, client, 300 * TEST_PAGE, (N_PAGES - 300) * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_stats(client).pages_in_flight > 0));
        run_psk_server(&nbd);
        cr_assert_eq(ensure_wait(&call), 0, "%s", call.reason);
        cr_assert(content_is_right(client, images, 0, N_PAGES * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        stop(&nbd);
}

/* A CA of our own, and a certificate for `host` signed by it, in a directory as libnbd and nbdkit want it. */
static void make_certificates(struct test_nbd *nbd, const char *host) {
        char template[200];

        require_program("certtool");
        make_image(nbd);
        write_file(test_nbd_path(nbd, "ca.info"), "cn = Test\nca\ncert_signing_key\nexpiration_days = 2\n");
        (void) snprintf(template, sizeof template, "cn = %s\ndns_name = %s\ntls_www_server\nsigning_key\nexpiration_days = 2\n", host,
                        host);
        write_file(test_nbd_path(nbd, "server.info"), template);
        TEST_RUN("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", test_nbd_path(nbd, "ca-key.pem"));
        TEST_RUN("certtool", "--generate-self-signed", "--load-privkey", test_nbd_path(nbd, "ca-key.pem"), "--template",
                 test_nbd_path(nbd, "ca.info"), "--outfile", test_nbd_path(nbd, "ca-cert.pem"));
        TEST_RUN("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", test_nbd_path(nbd, "server-key.pem"));
        TEST_RUN("certtool", "--generate-certificate", "--load-ca-certificate", test_nbd_path(nbd, "ca-cert.pem"),
                 "--load-ca-privkey", test_nbd_path(nbd, "ca-key.pem"), "--load-privkey", test_nbd_path(nbd, "server-key.pem"),
                 "--template", test_nbd_path(nbd, "server.info"), "--outfile", test_nbd_path(nbd, "server-cert.pem"));
}

/* nbdkit listens on TCP here: it takes no Unix socket beside that. */
static pid_t run_tcp_server(struct test_nbd *nbd, int port) {
        char option[300], number[16];
        pid_t pid;

        (void) snprintf(option, sizeof option, "--tls-certificates=%s", nbd->dir);
        (void) snprintf(number, sizeof number, "%d", port);
        pid = test_start_program((const char *const[]) { "nbdkit", "-f", "-i", "127.0.0.1", "-p", number, "--tls=require", option, "file",
                                                         image.path, NULL });
        cr_assert(EVENTUALLY(port_listens(port)));
        reservation = fd_close(reservation);
        return pid;
}

TEST(tls, certificate_of_the_servers_name_over_tcp) {
        int port = reserve_port();
        struct test_nbd nbd;
        char uri[300];
        pid_t server;

        make_certificates(&nbd, "localhost");
        server = run_tcp_server(&nbd, port);
        (void) snprintf(uri, sizeof uri, "nbds://localhost:%d/?tls-certificates=%s", port, nbd.dir);
        restore(uri, "-q");
        test_kill_program(server);
        stop(&nbd);
}

TEST(tls, certificate_of_another_name_is_refused) {
        int port = reserve_port();
        struct test_nbd nbd;
        char memory[300], log[4096];
        pid_t server;

        make_certificates(&nbd, "elsewhere.example");
        server = run_tcp_server(&nbd, port);
        (void) snprintf(memory, sizeof memory, "--memory=ram0,source=nbd:nbds://localhost:%d/?tls-certificates=%s", port, nbd.dir);
        cr_assert_eq(test_broker_refuses((const char *const[]) { memory, NULL }, log, sizeof log), 1);
        cr_assert(strstr(log, "certificate verification"), "%s", log);
        test_kill_program(server);
        stop(&nbd);
}

/* ---- names ---- */

/* The second connection is not made while the name is not resolved; the first one reads as if there were no other. */
TEST(names, name_that_is_not_resolved_delays_no_read_of_another_connection) {
        const char *hold, *library = TEST_BUILD_ROOT "/tests/integration/nbd/libhold-resolver.so";
        struct test_broker broker;
        char number[16], memory[200];
        int port = reserve_port();
        struct test_nbd nbd;
        pb_client *client;
        pid_t server;

        if (TEST_SANITIZED)
                cr_skip_test("a sanitizer's library has to be the first one");
        make_image(&nbd);
        (void) snprintf(number, sizeof number, "%d", port);
        server = test_start_program(
                (const char *const[]) { "nbdkit", "-f", "-i", "127.0.0.1", "-p", number, "file", image.path, NULL });
        cr_assert(EVENTUALLY(port_listens(port)));
        reservation = fd_close(reservation);
        hold = test_nbd_path(&nbd, "hold");
        write_file(hold, "");
        cr_assert(setenv("TEST_HOLD_RESOLVER", hold, 1) == 0 && setenv("LD_PRELOAD", library, 1) == 0);
        (void) snprintf(memory, sizeof memory, "--memory=ram0,source=nbd:nbd://localhost:%d/#connections=2", port);
        TEST_BROKER_START(&broker, memory, "--fill=off", "--seccomp=on");
        client = test_connect(&broker, PB_ROLE_VMM);
        cr_assert(ensure_is_right(client, images, 0, N_PAGES / 2 * TEST_PAGE));
        cr_assert(unlink(hold) == 0);
        cr_assert(ensure_is_right(client, images, N_PAGES / 2 * TEST_PAGE, N_PAGES / 2 * TEST_PAGE));
        client = test_disconnect(client);
        test_broker_stop(&broker);
        test_kill_program(server);
        stop(&nbd);
}

/* ---- doors of nbdkit ---- */

/* What S3 is, too, with a URL that is signed beforehand. */
TEST(doors, http) {
        char listen[32], url[300];
        int port = reserve_port();
        struct test_nbd nbd;
        pid_t server;

        require_program("busybox");
        make_image(&nbd);
        TEST_RUN("cp", image.path, test_nbd_path(&nbd, "image"));
        (void) snprintf(listen, sizeof listen, "127.0.0.1:%d", port);
        server = test_start_program((const char *const[]) { "busybox", "httpd", "-f", "-p", listen, "-h", nbd.dir, NULL });
        cr_assert(EVENTUALLY(port_listens(port)));
        reservation = fd_close(reservation);
        (void) snprintf(url, sizeof url, "url=http://127.0.0.1:%d/image", port);
        TEST_NBDKIT(&nbd, "--readonly", "curl", url);
        restore(nbd.uri, "-q");
        test_kill_program(server);
        stop(&nbd);
}

static pid_t run_sshd(struct test_nbd *nbd, int port) {
        char config[1200];
        pid_t pid;

        TEST_RUN("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", test_nbd_path(nbd, "host"));
        TEST_RUN("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", test_nbd_path(nbd, "user"));
        (void) snprintf(config, sizeof config,
                        "Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\n"
                        "PidFile none\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
                        port, nbd->dir, nbd->dir);
        write_file(test_nbd_path(nbd, "sshd_config"), config);
        pid = test_start_program((const char *const[]) { "/usr/sbin/sshd", "-D", "-e", "-f", test_nbd_path(nbd, "sshd_config"), NULL });
        cr_assert(EVENTUALLY(port_listens(port)));
        reservation = fd_close(reservation);
        return pid;
}

TEST(doors, ssh) {
        char identity[200], number[32], path[200];
        int port = reserve_port();
        struct test_nbd nbd;
        pid_t server;

        require_root();
        require_program("ssh-keygen");
        if (access("/usr/sbin/sshd", X_OK) < 0)
                cr_skip_test("sshd is not installed");
        if (mkdir("/run/sshd", 0755) < 0 && errno != EEXIST)
                cr_skip_test("/run/sshd, which sshd wants: %s", strerror(errno));
        make_image(&nbd);
        server = run_sshd(&nbd, port);
        (void) snprintf(identity, sizeof identity, "identity=%s/user", nbd.dir);
        (void) snprintf(number, sizeof number, "port=%d", port);
        (void) snprintf(path, sizeof path, "path=%s", image.path);
        TEST_NBDKIT(&nbd, "--readonly", "ssh", "host=127.0.0.1", number, identity, "verify-remote-host=false", "user=root", path);
        restore(nbd.uri, "-q");
        test_kill_program(server);
        stop(&nbd);
}
