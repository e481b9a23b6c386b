/* The upstream of the gateway benchmark: an OpenAI-speaking engine that costs next to nothing, and the few control
 * answers that make a cortex gateway take it for a neuron with one loaded model, "mock".
 *
 *     mock PORT
 *
 *   POST (anything)  about 1 KB of chat.completion, or server-sent events when the body asks for "stream": true
 *   GET /_set?chunks=&delay_us=&ttft_us=&json_delay_us=    the shape of the answers that begin from now on
 *   GET /_stats      counters, and when the last client left (CLOCK_MONOTONIC, us)
 *   GET /health /discovery /models /version /v1/models     what routers and gateways ask
 *
 * One thread on epoll. Every event is a send() and an HTTP chunk of its own, as engines do it, and carries the time it
 * was sent at as "system_fingerprint":"fp_<us>", from which load.c takes how long it travelled. Streams that are due
 * together take turns, one event each, like the decode step of a batch.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IN_BYTES = 1 << 18, OUT_BYTES = 1 << 14, EVENTS = 256 };
enum work { NOTHING, JSON, STREAM };

struct client {
    int fd;
    enum work work;    /* the answer this client is waiting for */
    int events_left;   /* of a stream */
    int opened;        /* the stream's first event is out */
    int want_write;    /* the socket is full: scheduled again when it drains */
    int64_t due_us;    /* when the next piece leaves */
    uint64_t turn;     /* ties in due_us: first come, first served */
    int slot;          /* index in the schedule, -1 outside */
    size_t in_len, out_len, out_at;
    struct client *next_dead;
    char in[IN_BYTES + 1];
    char out[OUT_BYTES];
};

static struct { int64_t chunks, delay_us, ttft_us, json_delay_us; } shape = {20, 0, 0, 0};
static struct { int64_t requests, streams, active, aborted, chunks, clients, last_abort_us; } count;

static int poll_fd;
static struct client *dead; /* freed only between two rounds: an event of this round may still name them */
static char json_answer[4096];
static size_t json_answer_len;

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* -- the schedule: a binary heap of clients by (due_us, turn) -- */

static struct client **heap;
static int heap_len, heap_cap;
static uint64_t turns;

static int earlier(const struct client *a, const struct client *b) {
    return a->due_us != b->due_us ? a->due_us < b->due_us : a->turn < b->turn;
}

static void place(struct client *c, int at) {
    heap[at] = c;
    c->slot = at;
}

static void sift_up(int at) {
    struct client *c = heap[at];
    for (int up; at > 0 && earlier(c, heap[up = (at - 1) / 2]); at = up) place(heap[up], at);
    place(c, at);
}

static void sift_down(int at) {
    struct client *c = heap[at];
    for (int kid; (kid = 2 * at + 1) < heap_len; at = kid) {
        if (kid + 1 < heap_len && earlier(heap[kid + 1], heap[kid])) kid++;
        if (!earlier(heap[kid], c)) break;
        place(heap[kid], at);
    }
    place(c, at);
}

static void schedule(struct client *c, int64_t due_us) {
    if (heap_len == heap_cap) {
        heap_cap = heap_cap ? 2 * heap_cap : 256;
        heap = realloc(heap, (size_t)heap_cap * sizeof *heap);
        if (!heap) abort();
    }
    c->due_us = due_us;
    c->turn = turns++;
    place(c, heap_len++);
    sift_up(c->slot);
}

static void unschedule(struct client *c) {
    int at = c->slot;
    if (at < 0) return;
    c->slot = -1;
    struct client *last = heap[--heap_len];
    if (last == c) return;
    place(last, at);
    sift_up(at);
    sift_down(last->slot);
}

/* -- one client -- */

static void listen_for(struct client *c, uint32_t what) {
    struct epoll_event e = {.events = what | EPOLLRDHUP, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void hang_up(struct client *c) {
    if (c->fd < 0) return;
    if (c->work != NOTHING) {
        count.aborted++;
        count.active--;
        count.last_abort_us = now_us();
    }
    unschedule(c);
    close(c->fd);
    c->fd = -1;
    count.clients--;
    c->next_dead = dead;
    dead = c;
}

/* 1: everything is out; 0: the socket is full; -1: the client is gone. */
static int flush(struct client *c) {
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!c->want_write) listen_for(c, EPOLLIN | EPOLLOUT);
            c->want_write = 1;
            return 0;
        }
        if (n < 0) {
            hang_up(c);
            return -1;
        }
        c->out_at += (size_t)n;
    }
    c->out_at = c->out_len = 0;
    return 1;
}

static void put(struct client *c, const char *text, size_t len) {
    if (c->out_len + len > sizeof c->out) return; /* cannot be: one answer at a time, and each fits */
    memcpy(c->out + c->out_len, text, len);
    c->out_len += len;
}

static void put_chunk(struct client *c, const char *text, size_t len) {
    char size[24];
    put(c, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", len));
    put(c, text, len);
    put(c, "\r\n", 2);
}

static void put_answer(struct client *c, const char *status, const char *body) {
    char head[160];
    int len = snprintf(head, sizeof head,
                       "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status,
                       strlen(body));
    put(c, head, (size_t)len);
    put(c, body, strlen(body));
}

static void send_event(struct client *c, int64_t now) {
    char event[512];
    int last = c->events_left == 1;
    int len = snprintf(event, sizeof event,
                       "data: {\"id\":\"chatcmpl-mock00000001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                       "\"model\":\"mock\",\"system_fingerprint\":\"fp_%016lld\",\"choices\":[{\"index\":0,\"delta\":{%s"
                       "\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
                       (long long)now, c->opened ? "" : "\"role\":\"assistant\",", last ? "\"stop\"" : "null");
    put_chunk(c, event, (size_t)len);
    c->opened = 1;
    count.chunks++;
    if (--c->events_left > 0) return;
    static const char usage[] =
        "data: {\"id\":\"chatcmpl-mock00000001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"mock\",\"choices\":[],\"usage\":{\"prompt_tokens\":200,\"completion_tokens\":100,"
        "\"total_tokens\":300}}\n\n";
    put_chunk(c, usage, sizeof usage - 1);
    put_chunk(c, "data: [DONE]\n\n", 14);
    put(c, "0\r\n\r\n", 5);
}

static void take_requests(struct client *c);

/* What is due for this client: an event of its stream, or the JSON answer that was held back. */
static void serve_due(struct client *c, int64_t now) {
    if (c->work == JSON) put(c, json_answer, json_answer_len);
    else send_event(c, now);
    if (c->work == JSON || c->events_left == 0) {
        c->work = NOTHING;
        count.active--;
    }
    int sent = flush(c);
    if (sent > 0 && c->work == STREAM) schedule(c, now + shape.delay_us);
    if (sent >= 0 && c->work == NOTHING) take_requests(c);
}

static void begin(struct client *c, enum work work, int64_t wait_us) {
    c->work = work;
    count.active++;
    schedule(c, now_us() + wait_us);
}

static void answer_post(struct client *c, const char *body, size_t len) {
    count.requests++;
    if (memmem(body, len, "\"stream\":true", 13) || memmem(body, len, "\"stream\": true", 14)) {
        static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                                   "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
        put(c, head, sizeof head - 1);
        count.streams++;
        c->events_left = (int)shape.chunks;
        c->opened = 0;
        if (shape.ttft_us > 0 && flush(c) < 0) return; /* an engine that prefills has sent its head already */
        begin(c, STREAM, shape.ttft_us);
    } else if (shape.json_delay_us > 0) {
        begin(c, JSON, shape.json_delay_us);
    } else {
        put(c, json_answer, json_answer_len);
    }
}

static void set_shape(const char *target) {
    struct { const char *name; int64_t *value; } keys[] = {{"chunks=", &shape.chunks},
                                                           {"delay_us=", &shape.delay_us},
                                                           {"ttft_us=", &shape.ttft_us},
                                                           {"json_delay_us=", &shape.json_delay_us}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        for (const char *at = strchr(target, '?'); at; at = strchr(at + 1, '&'))
            if (!strncmp(at + 1, keys[i].name, strlen(keys[i].name)))
                *keys[i].value = atoll(at + 1 + strlen(keys[i].name));
    }
}

static void answer_stats(struct client *c) {
    char text[320];
    snprintf(text, sizeof text,
             "{\"requests\":%lld,\"streams\":%lld,\"active\":%lld,\"aborted\":%lld,\"chunks\":%lld,\"clients\":%lld,"
             "\"last_abort_us\":%lld}",
             (long long)count.requests, (long long)count.streams, (long long)count.active, (long long)count.aborted,
             (long long)count.chunks, (long long)count.clients, (long long)count.last_abort_us);
    put_answer(c, "200 OK", text);
}

static const struct { const char *path, *body; } facts[] = {
    {"/health", "{\"status\":\"ok\",\"uptime_secs\":1,\"boot_id\":\"mock\",\"devices\":[{\"index\":0,\"vram_used_mb\":1000,"
                "\"vram_free_mb\":99000}],\"activation\":{\"state\":\"ready\"},\"models\":[]}"},
    {"/discovery", "{\"hostname\":\"mock\",\"os\":\"linux\",\"kernel\":\"0\",\"boot_id\":\"mock\",\"neuron_version\":\"mock\","
                   "\"devices\":[{\"index\":0,\"name\":\"mock\",\"vram_total_mb\":100000,\"kind\":\"cpu\"}],"
                   "\"harnesses\":[\"mock\"],\"max_prompt_tokens\":0}"},
    {"/models", "[{\"id\":\"mock\",\"harness\":\"mock\",\"status\":\"loaded\",\"devices\":[0],\"vram_used_mb\":1000}]"},
    {"/version", "{\"package_version\":\"mock\"}"},
    {"/v1/models", "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":1700000000,"
                   "\"owned_by\":\"mock\",\"root\":\"mock\",\"max_model_len\":32768}]}"},
    {"/", "{\"status\":\"ok\"}"},
};

static void answer_get(struct client *c, char *target) {
    if (!strncmp(target, "/_set", 5)) {
        set_shape(target);
        put_answer(c, "200 OK", "{}");
        return;
    }
    if (!strcmp(target, "/_stats")) {
        answer_stats(c);
        return;
    }
    target[strcspn(target, "?")] = 0;
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        if (!strcmp(target, facts[i].path)) {
            put_answer(c, "200 OK", facts[i].body);
            return;
        }
    }
    put_answer(c, "404 Not Found", "{\"error\":\"not found\"}");
}

/* One request whose head and body lie in memory; the head ends with a NUL. */
static void answer(struct client *c, char *head, const char *body, size_t body_len) {
    char *target = strchr(head, ' ');
    char *end = target ? strchr(target + 1, ' ') : NULL;
    if (!end) {
        hang_up(c);
        return;
    }
    *target++ = *end = 0;
    if (strcmp(head, "POST")) answer_get(c, target);
    else if (!strncmp(target, "/models/", 8)) put_answer(c, "404 Not Found", "{\"error\":\"not found\"}");
    else answer_post(c, body, body_len);
    flush(c);
}

/* Bytes of the body that follows this head; -1 when it is not all here. A chunked one is taken as far as its end. */
static ssize_t body_length(const char *head, const char *body, size_t there) {
    const char *field = strcasestr(head, "\r\ncontent-length:");
    if (field) {
        ssize_t len = atoll(field + 17);
        return (size_t)len <= there ? len : -1;
    }
    if (!strcasestr(head, "\r\ntransfer-encoding: chunked")) return 0;
    const char *end = memmem(body, there, "0\r\n\r\n", 5);
    return end ? end + 5 - body : -1;
}

static void take_requests(struct client *c) {
    while (c->fd >= 0 && c->work == NOTHING && c->in_len && !c->want_write) {
        char *gap = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!gap) break;
        char *body = gap + 4;
        *gap = 0;
        ssize_t len = body_length(c->in, body, c->in_len - (size_t)(body - c->in));
        if (len < 0) {
            *gap = '\r';
            break;
        }
        size_t used = (size_t)(body - c->in) + (size_t)len;
        answer(c, c->in, body, (size_t)len);
        c->in_len -= used;
        memmove(c->in, c->in + used, c->in_len);
    }
    if (c->fd >= 0 && c->in_len == IN_BYTES) hang_up(c); /* a request larger than this program is meant for */
}

static void read_from(struct client *c) {
    for (;;) {
        size_t room = IN_BYTES - c->in_len;
        ssize_t n = room ? recv(c->fd, c->in + c->in_len, room, 0) : 0;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (n <= 0) {
            hang_up(c);
            return;
        }
        c->in_len += (size_t)n;
        take_requests(c);
        if (c->fd < 0 || (size_t)n < room) return;
    }
}

static void wake(struct client *c, uint32_t what) {
    if (c->fd < 0) return;
    if (what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) && c->work != NOTHING) {
        hang_up(c);
        return;
    }
    if (what & EPOLLOUT) {
        c->want_write = 0;
        listen_for(c, EPOLLIN);
        int sent = flush(c);
        if (sent < 0) return;
        if (sent && c->work == STREAM && c->slot < 0) schedule(c, now_us() + shape.delay_us);
        if (sent && c->work == NOTHING) take_requests(c);
    }
    if (c->fd >= 0 && what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) read_from(c);
}

static void welcome(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct client *c = malloc(sizeof *c);
        if (!c) abort();
        memset(c, 0, offsetof(struct client, in));
        c->fd = fd;
        c->slot = -1;
        count.clients++;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

/* Serves what was due when the round began; what falls due meanwhile waits for its turn in the next. */
static void serve_round(void) {
    int64_t now = now_us();
    uint64_t until = turns;
    while (heap_len && heap[0]->due_us <= now && heap[0]->turn < until) {
        struct client *c = heap[0];
        unschedule(c);
        serve_due(c, now);
    }
}

static void wait_and_read(int listener) {
    struct epoll_event events[EVENTS];
    struct timespec pause = {0, 0};
    if (heap_len) {
        int64_t left = heap[0]->due_us - now_us();
        if (left > 0) pause = (struct timespec){left / 1000000, left % 1000000 * 1000};
    }
    int n = epoll_pwait2(poll_fd, events, EVENTS, heap_len ? &pause : NULL, NULL);
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr) wake(events[i].data.ptr, events[i].events);
        else welcome(listener);
    }
}

static void write_json_answer(void) {
    static const char words[] = "the quick brown fox jumps over a lazy dog ";
    char text[801], body[1400];
    for (int i = 0; i < 800; i++) text[i] = words[(size_t)i % (sizeof words - 1)];
    text[800] = 0;
    int len = snprintf(body, sizeof body,
                       "{\"id\":\"chatcmpl-mock00000001\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock\","
                       "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"logprobs\":null,"
                       "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":200,\"completion_tokens\":180,"
                       "\"total_tokens\":380}}",
                       text);
    json_answer_len = (size_t)snprintf(
        json_answer, sizeof json_answer,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len, body);
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) {
        perror("mock: cannot listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: mock PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    write_json_answer();
    int listener = listen_on(atoi(argv[1]));
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        wait_and_read(listener);
        serve_round();
        while (dead) {
            struct client *c = dead;
            dead = c->next_dead;
            free(c);
        }
    }
}
