/* SPDX-License-Identifier: MIT */
/*
 * Metrics for a scraper: HTTP by libmicrohttpd, on the loop of the one thread there is. Every request asks the brokers
 * anew, over a new connection to the bus, so that a bus or a broker that was restarted needs nothing.
 */
#include "client/ctl/metrics-listen.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "client/ctl/complain.h"
#include "client/ctl/metrics-text.h"
#include "common/cleanup.h"

/* A scraper is one connection; whoever opens many, or none that asks, is cut off. */
#define CONNECTIONS_MAX 16
#define CONNECTION_TIMEOUT_S 10
#define ADDRESS_DEFAULT "127.0.0.1"

struct listener {
        const struct ctl *ctl;
        int fd;
        char path[108]; /* of a socket file that we made; else empty */
};

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned code, const char *type, char *text,
                                   size_t size) {
        struct MHD_Response *response = MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
        enum MHD_Result result;

        if (!response) {
                free(text);
                return MHD_NO;
        }
        (void) MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
        result = MHD_queue_response(connection, code, response);
        MHD_destroy_response(response);
        return result;
}

static enum MHD_Result answer_words(struct MHD_Connection *connection, unsigned code, const char *words) {
        char *text = strdup(words);

        return text ? answer_text(connection, code, "text/plain; charset=utf-8", text, strlen(text)) : MHD_NO;
}

/* What every scraper says that understands OpenMetrics. */
static enum metrics_format choose_format(struct MHD_Connection *connection) {
        const char *accept = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);

        return accept && strstr(accept, "application/openmetrics-text") ? METRICS_OPEN : METRICS_PLAIN;
}

static enum MHD_Result answer(void *data, struct MHD_Connection *connection, const char *url, const char *method,
                              const char *version UNUSED, const char *upload UNUSED, size_t *upload_size,
                              void **request) {
        static const char *const types[] = {
                [METRICS_OPEN] = "application/openmetrics-text; version=1.0.0; charset=utf-8",
                [METRICS_PLAIN] = "text/plain; version=0.0.4; charset=utf-8",
        };
        static int seen;
        enum metrics_format format = choose_format(connection);
        const struct listener *listener = data;
        char *text = NULL;
        size_t size = 0;
        FILE *file;
        int status;

        /* The first call is for the header: an answer would break the connection for the next request. */
        if (!*request) {
                *request = &seen;
                return MHD_YES;
        }
        *upload_size = 0;
        if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
                return answer_words(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET /metrics\n");
        if (strcmp(url, "/metrics") != 0)
                return answer_words(connection, MHD_HTTP_NOT_FOUND, "GET /metrics\n");
        file = open_memstream(&text, &size);
        if (!file)
                return MHD_NO;
        status = metrics_collect(listener->ctl, file, format);
        if (fclose(file) != 0 || status != STATUS_OK) {
                free(text);
                return answer_words(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "The brokers cannot be asked.\n");
        }
        return answer_text(connection, MHD_HTTP_OK, types[format], text, size);
}

/* A file that nobody listens on any more is replaced, as pagebrokerd does it. */
static int bind_path(int fd, const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        struct stat st;

        if (strlen(path) >= sizeof address.sun_path)
                return -ENAMETOOLONG;
        (void) snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
        if (bind(fd, (const struct sockaddr *) &address, sizeof address) == 0)
                return 0;
        if (errno != EADDRINUSE || lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
                return -errno;
        if (connect(fd, (const struct sockaddr *) &address, sizeof address) == 0 || errno != ECONNREFUSED)
                return -EADDRINUSE;
        if (unlink(path) < 0 || bind(fd, (const struct sockaddr *) &address, sizeof address) < 0)
                return -errno;
        return 0;
}

static int listen_path(struct listener *listener, const char *path) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r;

        if (fd < 0)
                return -errno;
        r = bind_path(fd, path);
        if (r < 0)
                return r;
        (void) snprintf(listener->path, sizeof listener->path, "%s", path);
        listener->fd = fd_take(&fd);
        return 0;
}

/* [ADDRESS:]PORT; an IPv6 address stands in brackets. */
static int split_address(const char *where, char *ret_host, size_t size, const char **ret_port) {
        const char *colon = strrchr(where, ':'), *host = where;
        size_t n = colon ? (size_t) (colon - where) : 0;

        *ret_port = colon ? colon + 1 : where;
        if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
                host++;
                n -= 2;
        }
        if (!**ret_port || strspn(*ret_port, "0123456789") != strlen(*ret_port) || n >= size)
                return -EINVAL;
        if (n == 0)
                (void) snprintf(ret_host, size, "%s", ADDRESS_DEFAULT);
        else
                (void) snprintf(ret_host, size, "%.*s", (int) n, host);
        return 0;
}

static int listen_port(struct listener *listener, const char *where) {
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE };
        struct addrinfo *found;
        _cleanup_close_ int fd = -1;
        const char *port;
        char host[256];
        int r, one = 1;

        r = split_address(where, host, sizeof host, &port);
        if (r < 0)
                return r;
        if (getaddrinfo(host, port, &hints, &found) != 0)
                return -EADDRNOTAVAIL;
        fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                r = -errno;
        else {
                (void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
                r = bind(fd, found->ai_addr, found->ai_addrlen) == 0 ? 0 : -errno;
        }
        freeaddrinfo(found);
        if (r == 0)
                listener->fd = fd_take(&fd);
        return r;
}

static int start_listening(struct listener *listener) {
        const char *where = listener->ctl->listen;
        int r = strchr(where, '/') ? listen_path(listener, where) : listen_port(listener, where);

        if (r == 0 && listen(listener->fd, CONNECTIONS_MAX) < 0)
                r = -errno;
        if (r == -EINVAL)
                return complain(STATUS_USAGE, "--listen=%s: a socket's path (with a slash) or [ADDRESS:]PORT", where);
        return r < 0 ? complain(STATUS_FAILURE, "--listen=%s: %s", where, strerror(-r)) : STATUS_OK;
}

/* Port 0 is the kernel's choice: whoever asked for it reads here what it was. */
static void say_address(const struct listener *listener) {
        struct sockaddr_storage address = {};
        socklen_t length = sizeof address;
        char host[NI_MAXHOST], port[NI_MAXSERV];

        if (listener->path[0])
                (void) printf("listening on %s\n", listener->path);
        else if (getsockname(listener->fd, (struct sockaddr *) &address, &length) == 0 &&
                 getnameinfo((struct sockaddr *) &address, length, host, sizeof host, port, sizeof port,
                             NI_NUMERICHOST | NI_NUMERICSERV) == 0)
                (void) printf("listening on http://%s%s%s:%s/metrics\n", address.ss_family == AF_INET6 ? "[" : "", host,
                              address.ss_family == AF_INET6 ? "]" : "", port);
        (void) fflush(stdout);
}

static int run(struct MHD_Daemon *daemon, int signals) {
        const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD);

        if (!info)
                return -EIO;
        for (;;) {
                struct pollfd fds[2] = { { .fd = info->epoll_fd, .events = POLLIN },
                                         { .fd = signals, .events = POLLIN } };
                MHD_UNSIGNED_LONG_LONG timeout_ms;
                int timeout = MHD_get_timeout(daemon, &timeout_ms) == MHD_YES ? (int) timeout_ms : -1;

                if (poll(fds, ELEMENTS(fds), timeout) < 0 && errno != EINTR)
                        return -errno;
                if (fds[1].revents)
                        return 0;
                if (MHD_run(daemon) == MHD_NO)
                        return -EIO;
        }
}

static int serve(struct listener *listener, int signals) {
        struct MHD_Daemon *daemon;
        int r;

        daemon = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, answer, listener, MHD_OPTION_LISTEN_SOCKET,
                                  listener->fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned) CONNECTIONS_MAX,
                                  MHD_OPTION_CONNECTION_TIMEOUT, (unsigned) CONNECTION_TIMEOUT_S, MHD_OPTION_END);
        if (!daemon)
                return complain(STATUS_FAILURE, "the HTTP server does not start");
        say_address(listener);
        r = run(daemon, signals);
        MHD_stop_daemon(daemon); /* closes the socket */
        listener->fd = -1;
        return r < 0 ? complain(STATUS_FAILURE, "serving: %s", strerror(-r)) : STATUS_OK;
}

int metrics_listen(const struct ctl *ctl) {
        struct listener listener = { .ctl = ctl, .fd = -1 };
        _cleanup_close_ int signals = -1;
        sigset_t set;
        int status;

        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGTERM);
        (void) sigaddset(&set, SIGINT);
        (void) sigprocmask(SIG_BLOCK, &set, NULL);
        (void) signal(SIGPIPE, SIG_IGN);
        signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (signals < 0)
                return complain(STATUS_FAILURE, "signals: %s", strerror(errno));
        status = start_listening(&listener);
        if (status == STATUS_OK)
                status = serve(&listener, signals);
        (void) fd_close(listener.fd);
        if (listener.path[0])
                (void) unlink(listener.path);
        return status;
}
