/* The load of the gateway benchmark: HTTP/1.1 with keep-alive, one thread on epoll, one JSON object on stdout.
 *
 *     load --port P --body FILE [--conns K] [--seconds S] [--warm W] [--rate R] [--path /v1/chat/completions]
 *
 * Without --rate each connection asks again as soon as it is answered (closed loop). With it, R requests a second are
 * due whatever the answers do (open loop), and a latency counts from when its request was due, not from when a free
 * connection was found for it. What ends during the warm-up is not counted.
 *
 * Times are microseconds. `latency`: request to last byte. `ttft`: request to the first event. `travel`: the time an
 * event was on its way, from the time stamp that mock.c puts into it; one sample a read.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 8192, READ_BYTES = 1 << 18, EVENTS = 256, MAX_ERRORS = 1000 };

/* -- what is measured -- */

struct samples { float *at; size_t len, cap; };

static struct samples latency, ttft, travel;
static int64_t answers, not_200, errors, events, read_calls, bytes;
static int counting;

static void sample(struct samples *s, double value) {
    if (!counting) return;
    if (s->len == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 65536;
        s->at = realloc(s->at, s->cap * sizeof *s->at);
        if (!s->at) abort();
    }
    s->at[s->len++] = (float)value;
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples *s) {
    static const struct { const char *name; double share; } marks[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1.0}};
    if (s->len) qsort(s->at, s->len, sizeof *s->at, ascending);
    printf(",\"%s\":{\"n\":%zu", name, s->len);
    for (size_t i = 0; s->len && i < sizeof marks / sizeof *marks; i++)
        printf(",\"%s\":%.1f", marks[i].name, s->at[(size_t)(marks[i].share * (double)(s->len - 1) + 0.5)]);
    printf("}");
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* -- one connection -- */

enum framing { COUNTED, CHUNKED, UNTIL_CLOSE };
enum chunk_state { SIZE, EXTENSION, DATA, DATA_END, TRAILER, TRAILER_LINE };

struct conn {
    int fd, busy, in_body, complete, closes, status;
    double asked_us;
    enum framing framing;
    enum chunk_state chunk;
    uint64_t left;      /* bytes of the counted body, or of this chunk */
    int first_event;    /* not seen yet */
    int matched;        /* bytes of "data:" that open this line; -1: the rest of the line is of no interest */
    size_t head_len;
    char head[HEAD_BYTES + 1];
};

static struct { int port, conns; double seconds, warm, rate; const char *path, *body; } want = {
    0, 1, 3.0, 0.3, 0.0, "/v1/chat/completions", NULL};
static char *request;
static size_t request_len;
static int poll_fd;
static struct conn **idle;
static int idle_len;
static const char *trouble; /* the first error, for the report */

static void dial(struct conn *c) {
    int on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)want.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) {
        perror("load: cannot connect");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void ask(struct conn *c, double asked_us) {
    c->busy = 1;
    c->in_body = c->complete = c->closes = c->status = 0;
    c->head_len = 0;
    c->first_event = 1;
    c->matched = 0;
    c->asked_us = asked_us;
    for (size_t at = 0; at < request_len;) {
        ssize_t n = send(c->fd, request + at, request_len - at, MSG_NOSIGNAL);
        if (n <= 0) return; /* closed meanwhile: the read that follows says so */
        at += (size_t)n;
    }
}

static void rest(struct conn *c) {
    c->busy = 0;
    if (want.rate > 0) idle[idle_len++] = c;
    else ask(c, now_us());
}

static void redial(struct conn *c) {
    close(c->fd);
    dial(c);
}

static void fail(const char *why) {
    if (!trouble) trouble = why;
    if (counting) errors++;
}

/* -- reading an answer -- */

static void see_event(struct conn *c, const char *at, const char *end, double t, int *sampled) {
    if (at < end && *at == ' ') at++;
    if (c->first_event) sample(&ttft, t - c->asked_us);
    c->first_event = 0;
    if (at < end && *at == '[') return; /* [DONE] */
    if (counting) events++;
    size_t span = (size_t)(end - at) < 300 ? (size_t)(end - at) : 300;
    const char *stamp = *sampled ? NULL : memmem(at, span, "\"fp_", 4);
    if (stamp && end - stamp > 20) {
        sample(&travel, t - (double)atoll(stamp + 4));
        *sampled = 1;
    }
}

/* Finds the lines that begin with "data:", wherever the pieces were cut. */
static void scan(struct conn *c, const char *at, const char *end, double t, int *sampled) {
    static const char mark[] = "data:";
    while (at < end) {
        if (c->matched < 0) {
            const char *line_end = memchr(at, '\n', (size_t)(end - at));
            if (!line_end) return;
            at = line_end + 1;
            c->matched = 0;
        } else if (*at == '\n') {
            c->matched = 0;
            at++;
        } else if (*at != mark[c->matched]) {
            c->matched = -1;
        } else {
            at++;
            if (++c->matched == (int)sizeof mark - 1) {
                see_event(c, at, end, t, sampled);
                c->matched = -1;
            }
        }
    }
}

static int hex(char ch) {
    if (ch >= '0' && ch <= '9') return ch - '0';
    ch |= 32;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

static void read_chunked(struct conn *c, const char *at, const char *end, double t) {
    int sampled = 0;
    while (at < end && !c->complete) {
        if (c->chunk == DATA) {
            uint64_t n = (uint64_t)(end - at) < c->left ? (uint64_t)(end - at) : c->left;
            scan(c, at, at + n, t, &sampled);
            at += n;
            c->left -= n;
            if (!c->left) c->chunk = DATA_END;
            continue;
        }
        char ch = *at++;
        switch (c->chunk) {
        case SIZE:
        case EXTENSION:
            if (ch == '\n') c->chunk = c->left ? DATA : TRAILER;
            else if (c->chunk == SIZE && hex(ch) >= 0) c->left = c->left * 16 + (uint64_t)hex(ch);
            else c->chunk = EXTENSION;
            break;
        case DATA_END:
            if (ch == '\n') c->chunk = SIZE;
            break;
        case TRAILER:
            if (ch == '\n') c->complete = 1;
            else if (ch != '\r') c->chunk = TRAILER_LINE;
            break;
        default:
            if (ch == '\n') c->chunk = TRAILER;
        }
    }
}

static void read_body(struct conn *c, const char *at, size_t len, double t) {
    int sampled = 0;
    if (c->framing == CHUNKED) {
        read_chunked(c, at, at + len, t);
        return;
    }
    scan(c, at, at + len, t, &sampled);
    if (c->framing == COUNTED) {
        c->left -= len < c->left ? len : c->left;
        c->complete = !c->left;
    }
}

/* Takes the head off the bytes read; how many of them belong to it, or 0 while it is incomplete. */
static size_t read_head(struct conn *c, const char *at, size_t len) {
    size_t old = c->head_len, take = len < HEAD_BYTES - old ? len : HEAD_BYTES - old;
    memcpy(c->head + old, at, take);
    c->head_len += take;
    char *gap = memmem(c->head, c->head_len, "\r\n\r\n", 4);
    if (!gap) return 0;
    gap[2] = 0;
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->status = atoi(c->head + 9);
    c->closes = strcasestr(c->head, "\r\nconnection: close") != NULL;
    c->framing = length ? COUNTED : strcasestr(c->head, "\r\ntransfer-encoding: chunked") ? CHUNKED : UNTIL_CLOSE;
    c->left = length ? strtoull(length + 17, NULL, 10) : 0;
    c->chunk = SIZE;
    c->in_body = 1;
    c->complete = length && !c->left;
    return (size_t)(gap + 4 - c->head) - old;
}

static void answered(struct conn *c, double t) {
    sample(&latency, t - c->asked_us);
    if (counting) answers++;
    if (c->status != 200) {
        if (counting) not_200++;
        if (!trouble) trouble = "an answer was not 200";
    }
}

static void closed(struct conn *c, double t) {
    if (c->busy && c->in_body && c->framing == UNTIL_CLOSE) answered(c, t);
    else if (c->busy) fail("a connection ended in mid-answer");
    redial(c);
    if (c->busy) rest(c);
}

static void readable(struct conn *c) {
    static char piece[READ_BYTES];
    ssize_t n = recv(c->fd, piece, sizeof piece, MSG_DONTWAIT);
    double t = now_us();
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n <= 0) {
        closed(c, t);
        return;
    }
    if (counting) read_calls++, bytes += n;
    if (!c->busy) {
        fail("bytes that nobody asked for");
        return;
    }
    size_t used = 0;
    if (!c->in_body && !(used = read_head(c, piece, (size_t)n)) && c->head_len < HEAD_BYTES) return;
    if (!c->in_body) {
        fail("the head of an answer is too long");
        redial(c);
        rest(c);
        return;
    }
    if ((size_t)n > used) read_body(c, piece + used, (size_t)n - used, t);
    if (!c->complete) return;
    answered(c, t);
    if (c->closes) redial(c);
    rest(c);
}

/* -- the run -- */

static void wait_for(double us) {
    struct epoll_event ready[EVENTS];
    if (us < 0) us = 0;
    struct timespec pause = {(time_t)(us / 1e6), (long)((int64_t)us % 1000000 * 1000)};
    int n = epoll_pwait2(poll_fd, ready, EVENTS, &pause, NULL);
    for (int i = 0; i < n; i++) readable(ready[i].data.ptr);
}

static double run(void) {
    double began = now_us(), count_from = began + want.warm * 1e6, end = count_from + want.seconds * 1e6;
    double due = began, gap = want.rate > 0 ? 1e6 / want.rate : 0, t;
    while ((t = now_us()) < end && errors < MAX_ERRORS) {
        if (!counting && t >= count_from) {
            counting = 1;
            count_from = t;
        }
        double next = counting ? end : count_from;
        if (gap > 0) {
            for (; due <= t && idle_len; due += gap) ask(idle[--idle_len], due);
            if (idle_len && due < next) next = due;
        }
        wait_for(next - t);
    }
    return (now_us() - count_from) / 1e6;
}

static void build_request(void) {
    FILE *f = want.body ? fopen(want.body, "rb") : NULL;
    static char body[1 << 20];
    if (!f) {
        perror("load: --body");
        exit(2);
    }
    size_t len = fread(body, 1, sizeof body, f);
    fclose(f);
    request = malloc(len + 1024);
    if (!request) abort();
    int head = snprintf(request, 1024,
                        "POST %.200s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                        "Authorization: Bearer sk-bench\r\nAccept: */*\r\nContent-Length: %zu\r\n\r\n",
                        want.path, want.port, len);
    memcpy(request + head, body, len);
    request_len = (size_t)head + len;
}

static void read_options(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *key = argv[i], *value = argv[i + 1];
        if (!strcmp(key, "--port")) want.port = atoi(value);
        else if (!strcmp(key, "--conns")) want.conns = atoi(value);
        else if (!strcmp(key, "--seconds")) want.seconds = atof(value);
        else if (!strcmp(key, "--warm")) want.warm = atof(value);
        else if (!strcmp(key, "--rate")) want.rate = atof(value);
        else if (!strcmp(key, "--path")) want.path = value;
        else if (!strcmp(key, "--body")) want.body = value;
        else {
            fprintf(stderr, "load: no such option: %s\n", key);
            exit(2);
        }
    }
    if (want.port <= 0 || want.conns <= 0) {
        fprintf(stderr, "usage: load --port P --body FILE [--conns K] [--seconds S] [--warm W] [--rate R] [--path P]\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    build_request();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct conn *conns = calloc((size_t)want.conns, sizeof *conns);
    idle = calloc((size_t)want.conns, sizeof *idle);
    if (!conns || !idle) abort();
    for (int i = 0; i < want.conns; i++) {
        dial(&conns[i]);
        rest(&conns[i]);
    }
    double seconds = run();
    printf("{\"seconds\":%.3f,\"answers\":%lld,\"answers_per_s\":%.1f,\"not_200\":%lld,\"errors\":%lld,\"events\":%lld,"
           "\"events_per_s\":%.1f,\"reads\":%lld,\"bytes\":%lld",
           seconds, (long long)answers, (double)answers / seconds, (long long)not_200, (long long)errors,
           (long long)events, (double)events / seconds, (long long)read_calls, (long long)bytes);
    print_samples("latency", &latency);
    print_samples("ttft", &ttft);
    print_samples("travel", &travel);
    printf(",\"trouble\":%s%s%s}\n", trouble ? "\"" : "", trouble ? trouble : "null", trouble ? "\"" : "");
    return 0;
}
