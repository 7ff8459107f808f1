/* Load generator for rooms whose publishers are on one node and whose members are on another.
 * One thread, epoll, no libraries.
 *
 *   cc -O2 -o load load.c
 *   ./load --publishers 8001 --members 8002 --rooms 100 --per-room 1 --tokens tokens.txt --window 4 \
 *       --path '/api/v1/ws/connect?token=%K' --joined joined_room --join '{"type":"join_room","room":"channel:%R"}' \
 *       --publish '{"type":"send_message","room":"channel:%R","data":{"content":"%M"}}'
 *
 * Every room has one publisher, connected to port --publishers, and --per-room members, connected to port --members.
 * At most --ramp handshakes run at once. Each client sends the --hello frames and --join, and is ready when it receives
 * a frame that contains --joined. When all are ready, READY is printed. A line on standard input starts the run:
 *   --window W   Closed loop: each publisher has W messages in flight. It sends the next one when all members of the
 *                room have received one. No node can run ahead of another, and the slowest process limits the rate.
 *   --rate N     Open loop: N messages per second, the rooms in turn. Latency is measured from the scheduled time.
 * The run has --warmup seconds that are not counted and --duration seconds that are. At the end, messages in flight are
 * awaited for up to --drain seconds. With neither window nor rate, a second line on standard input ends the run.
 *
 * Templates: %K is the next line of --tokens (after the --first ones), %R the number of the room, %M a mark (the time
 * in ns and the number of the message in its room) with --pad bytes after it, %L the last id received, as JSON (null
 * if none). With --ping TEXT:REPLY, a frame TEXT is answered with REPLY, which Engine.IO requires.
 *
 * With --chatter TEXT, the members send TEXT as well, --chatter-rate times per second in total, in turns. What they
 * receive without a mark is counted as "others".
 *
 * Each client checks the numbers in the marks. At the end, a number that never came is lost. A number after a higher
 * one is late. A repeated number is doubled, and so is one that comes more than 64 late. Publishers check their own
 * copies, but only the deliveries to members are counted and timed.
 *
 * --return PORT is for a node that is killed during an open loop. Members that lose their connection connect to PORT,
 * all at once, and again 50 to 150 ms after a refusal. A member is back when it has joined and received everything that
 * its room had been sent by then. When all are back, BACK is printed and --duration starts. A reply to a join that
 * contains --recovered reports that nothing was missed.
 *
 * Prints one JSON object. Ends after a further line or the end of standard input, so that its CPU time can be read.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WINDOW = 1024, MAX_HELLO = 4, ID_SIZE = 48, READ_SIZE = 1 << 18, CLOSE_CODES = 5000 };
enum { STAMP = 19, COUNT = 10 };   /* digits of the time and of the number in a mark */
typedef unsigned long long ull;   /* for printf */
enum state { NEW, CONNECTING, SHAKING, OPEN, DEAD };

struct buffer { char *data; size_t len, cap; };
struct client {
    int fd, port, room, close_code;
    enum state state;
    char joined, away, dirty, wants_out;   /* away: lost its node and is not back; dirty: has unsent frames */
    uint64_t received, last, seen;         /* messages; the highest number; a bit for each of the 64 up to it */
    uint64_t goal, retry_at;               /* the number to reach to be back; when to connect, or 0 */
    char id[ID_SIZE];
    struct buffer in, out;
};
struct room { uint64_t sent; int received[MAX_WINDOW]; };   /* received: by how many members, for each in flight */

static struct {
    int publishers, members, back_to, rooms, per_room, ramp, window, pad, first, n_hello;
    double rate, chatter_rate, duration, warmup, drain, patience;
    const char *path, *tokens, *join, *joined, *recovered, *publish, *chatter, *hello[MAX_HELLO], *ping, *pong;
} opt = { .rooms = 1, .per_room = 1, .ramp = 100, .duration = 5, .warmup = 1, .drain = 5, .patience = 60, .path = "/" };

static struct client *clients;
static struct room *rooms;
static int n_clients, ep, timer_fd, stdin_line, n_ready, n_shaking, n_away, n_dropped, n_retry, *dirty, n_dirty;
static char **tokens;
static int n_tokens, longest_token, running, counting;
static uint64_t scheduled, delivered, published, lost, late, doubled, others, chatter_begin, chattered;
static uint64_t recovered, not_recovered, retries, first_drop, last_back, close_codes[CLOSE_CODES];
static uint64_t latency[64 * 64], n_latency;   /* a histogram, see note_latency */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr), vfprintf(stderr, format, args), fputs("\n", stderr);
    exit(2);
}

static void append(struct buffer *b, const void *data, size_t n) {
    if (b->len + n > b->cap) {
        size_t cap = b->cap ? b->cap : 512;
        while (cap < b->len + n) cap *= 2;
        if (!(b->data = realloc(b->data, b->cap = cap))) fail("out of memory");
    }
    memcpy(b->data + b->len, data, n);
    b->len += n;
}

static void consume(struct buffer *b, size_t n) {
    memmove(b->data, b->data + n, b->len -= n);
    if (!b->len && b->cap > 4096) free(b->data), *b = (struct buffer){0};
}


/* Latencies: a histogram with 64 buckets for each power of two, which is exact to 1.6 %. */

static void note_latency(uint64_t ns) {
    int shift = 57 - __builtin_clzll(ns | 64);
    latency[shift * 64 + (ns >> shift)]++, n_latency++;
}

static double percentile(double part) {   /* in ms */
    uint64_t rank = part * (n_latency ? n_latency - 1 : 0), seen = 0;
    for (uint64_t i = 0; i < sizeof latency / sizeof *latency; i++)
        if ((seen += latency[i]) > rank) return (i < 128 ? i : (i % 64 + 64) << (i / 64 - 1)) / 1e6;
    return 0;
}

/* Sending */

static void watch(struct client *c, int operation) {
    struct epoll_event e = { .events = EPOLLIN | (c->wants_out ? EPOLLOUT : 0), .data.u32 = c - clients };
    if (epoll_ctl(ep, operation, c->fd, &e)) fail("epoll_ctl: %s", strerror(errno));
}

static void flush(struct client *c) {
    size_t sent = 0;
    while (sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + sent, c->out.len - sent, MSG_NOSIGNAL);
        if (n < 0) break;   /* full or closed; the next read detects the latter */
        sent += n;
    }
    consume(&c->out, sent);
    if (c->wants_out != (c->out.len > 0)) c->wants_out = c->out.len > 0, watch(c, EPOLL_CTL_MOD);
}

static void flush_dirty(void) {
    for (int i = 0; i < n_dirty; i++) {
        struct client *c = &clients[dirty[i]];
        c->dirty = 0;
        if (c->state == OPEN) flush(c);
    }
    n_dirty = 0;
}

static void mark_dirty(struct client *c) {
    if (!c->dirty) c->dirty = 1, dirty[n_dirty++] = c - clients;
}

static void send_frame(struct client *c, int opcode, const char *data, size_t n) {
    unsigned char small[6] = { 0x80 | opcode, 0x80 | n }, large[8] = { 0x80 | opcode, 0x80 | 126, n >> 8, n };
    if (n > 0xffff) fail("a frame of %zu bytes is too long", n);
    append(&c->out, n < 126 ? small : large, n < 126 ? sizeof small : sizeof large);   /* masked with 0: legal, free */
    append(&c->out, data, n);
    mark_dirty(c);
}

static size_t fill_in(const char *template, struct client *c, char *text, size_t size) {
    char *p = text, *end = text + size - 1;
    for (; *template; template++) {
        if (end - p < 64 + opt.pad + longest_token) fail("%.40s... is too long", text);
        if (*template != '%') { *p++ = *template; continue; }
        switch (*++template) {
        case 'K': if (tokens) p = stpcpy(p, tokens[(opt.first + c - clients) % n_tokens]); break;
        case 'R': p += sprintf(p, "%d", c->room); break;
        case 'L': p += sprintf(p, *c->id ? "\"%s\"" : "null", c->id); break;
        case 'M':
            p += sprintf(p, "@%0*llu.%0*llu ", STAMP, (ull)scheduled, COUNT, (ull)rooms[c->room].sent);
            memset(p, 'x', opt.pad), p += opt.pad;
            break;
        default: fail("%%%c is not a template", *template);
        }
    }
    *p = 0;
    return p - text;
}

static void send_text(struct client *c, const char *template) {
    char text[16384];
    send_frame(c, 1, text, fill_in(template, c, text, sizeof text));
}

static void publish(int room) {   /* a message that was scheduled for `scheduled` */
    struct client *c = &clients[room];   /* the first clients are the publishers */
    if (c->state != OPEN) return;
    rooms[room].sent++;
    send_text(c, opt.publish);
    published += counting;
}

static void chatter(void) {   /* let the members send what is due */
    if (!running || !opt.chatter) return;
    uint64_t members = n_clients - opt.rooms, due = (now() - chatter_begin) / 1e9 * opt.chatter_rate;
    for (; chattered < due; chattered++) {
        struct client *c = &clients[opt.rooms + chattered % members];
        if (c->state == OPEN) send_text(c, opt.chatter);
    }
}

/* Connections */

static void start(struct client *c) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(c->port) };
    int one = 1;
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) < 0) fail("socket: %s", strerror(errno));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONNECTING, c->wants_out = 1, c->close_code = 1006, c->retry_at = 0, n_shaking++;
    watch(c, EPOLL_CTL_ADD);
    if (connect(c->fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS) fail("connect: %s", strerror(errno));
}

static void drop(struct client *c) {
    close(c->fd);
    c->in.len = c->out.len = 0;
    close_codes[c->close_code < CLOSE_CODES ? c->close_code : 0]++;
    n_shaking -= !c->joined, n_ready -= c->joined;
    int had_joined = c->joined;
    c->state = DEAD, c->joined = 0;
    if (!opt.back_to || c - clients < opt.rooms || !running) return;
    c->port = opt.back_to;
    if (!c->away) {
        c->away = 1, n_away++, n_dropped++;
        if (!first_drop) first_drop = now();
    } else {
        retries++;
    }
    if (had_joined) start(c);
    else n_retry++, c->retry_at = now() + 50000000 + rand() % 100000000;
}

static void retry(void) {
    uint64_t t = now();
    for (int i = opt.rooms; n_retry && i < n_clients; i++)
        if (clients[i].retry_at && clients[i].retry_at <= t) n_retry--, start(&clients[i]);
}

static void request_upgrade(struct client *c) {
    char path[12000], text[13000];
    fill_in(opt.path, c, path, sizeof path);
    int n = snprintf(text, sizeof text,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", path, c->port);
    append(&c->out, text, n);
    c->state = SHAKING;
    flush(c);
}

static int upgraded(struct client *c) {   /* 1 if the response head is complete; what follows it stays in `in` */
    char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(c->in.data, "HTTP/1.1 101", 12)) { c->close_code = atoi(c->in.data + 9), drop(c); return 0; }
    consume(&c->in, end + 4 - c->in.data);
    c->state = OPEN;
    for (int i = 0; i < opt.n_hello; i++) send_text(c, opt.hello[i]);
    send_text(c, opt.join);
    return 1;
}

/* Receiving */

static void check_back(struct client *c) {
    if (!c->away || !c->joined || c->last < c->goal) return;
    c->away = 0, n_away--;
    if (n_away || n_dropped < n_clients - opt.rooms) return;
    last_back = now();
    puts("BACK"), fflush(stdout);
}

static void on_joined(struct client *c, const char *p, size_t n) {
    c->joined = 1, n_ready++, n_shaking--;
    if (!c->away) return;
    if (opt.recovered && memmem(p, n, opt.recovered, strlen(opt.recovered))) recovered++;
    else not_recovered++;
    c->goal = rooms[c->room].sent;
    check_back(c);
}

static void note_id(struct client *c, const char *p, size_t n) {
    const char *id = memmem(p, n, "id\":\"", 5), *end;
    if (!id) return;
    id += 5, end = memchr(id, '"', p + n - id);
    if (!end || end - id >= ID_SIZE) return;
    memcpy(c->id, id, end - id), c->id[end - id] = 0;
}

static int is_new(struct client *c, uint64_t count) {
    if (count > c->last) {
        uint64_t distance = count - c->last;
        c->seen = (distance < 64 ? c->seen << distance : 0) | 1;
        c->last = count;
        return 1;
    }
    uint64_t bit = c->last - count < 64 ? 1ull << (c->last - count) : 0;
    if (!bit || c->seen & bit) return 0;
    c->seen |= bit;
    late++;
    return 1;
}

static void on_message(struct client *c, uint64_t sent_at, uint64_t count) {
    struct room *room = &rooms[c->room];
    if (!is_new(c, count)) { doubled++; return; }
    c->received++;
    check_back(c);
    if (c - clients < opt.rooms) return;
    if (counting) delivered++, note_latency(now() - sent_at);
    if (!opt.window || ++room->received[count % MAX_WINDOW] < opt.per_room) return;
    room->received[count % MAX_WINDOW] = 0;
    if (running) scheduled = now(), publish(c->room);
}

static uint64_t digits(const char *p, int n) {
    uint64_t value = 0;
    while (n--) value = value * 10 + (*p++ - '0');
    return value;
}

static void on_text(struct client *c, const char *p, size_t n) {
    if (opt.ping && n == strlen(opt.ping) && !memcmp(p, opt.ping, n)) { send_text(c, opt.pong); return; }
    const char *mark = memchr(p, '@', n);
    if (mark && p + n - mark > STAMP + 1 + COUNT && mark[1 + STAMP] == '.') {
        if (opt.back_to) note_id(c, p, n);
        on_message(c, digits(mark + 1, STAMP), digits(mark + 2 + STAMP, COUNT));
        return;
    }
    int is_reply = !c->joined && memmem(p, n, opt.joined, strlen(opt.joined));
    if (opt.back_to && !(is_reply && c->away)) note_id(c, p, n);   /* missed events come after that reply */
    if (is_reply) on_joined(c, p, n);
    others += counting;
}

static void on_frame(struct client *c, int opcode, const char *p, size_t n) {
    if (opcode == 1) on_text(c, p, n);
    else if (opcode == 9) send_frame(c, 10, p, n);
    else if (opcode == 8) c->close_code = n < 2 ? 1005 : (unsigned char)p[0] << 8 | (unsigned char)p[1], drop(c);
    else if (opcode != 10) fail("a frame has opcode %d; only unfragmented text frames are supported", opcode);
}

static size_t parse(struct client *c, const char *data, size_t len) {   /* returns the bytes of complete frames */
    const unsigned char *start = (const unsigned char *)data, *p = start, *end = start + len;
    while (c->state == OPEN && end - p >= 2) {
        size_t n = p[1] & 127, head = n < 126 ? 2 : n == 126 ? 4 : 10;
        if ((size_t)(end - p) < head) break;
        if (n > 125) { n = 0; for (size_t i = 2; i < head; i++) n = n << 8 | p[i]; }
        if ((size_t)(end - p) < head + n) break;
        if (*p < 0x80) fail("a message is fragmented, which is not supported");
        on_frame(c, *p & 15, (const char *)p + head, n);
        p += head + n;
    }
    return (const char *)p - data;
}

static void on_readable(struct client *c) {
    static char data[READ_SIZE];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { drop(c); return; }
    if (c->state == OPEN && !c->in.len) {   /* most reads end with a complete frame: nothing is copied */
        size_t done = parse(c, data, n);
        if (c->state == OPEN && done < (size_t)n) append(&c->in, data + done, n - done);
        return;
    }
    append(&c->in, data, n);
    if (c->state == SHAKING && !upgraded(c)) return;
    size_t done = parse(c, c->in.data, c->in.len);
    if (c->state == OPEN) consume(&c->in, done);
}

static void on_connected(struct client *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) drop(c);
    else request_upgrade(c);
}

static void on_timer(void) {
    static int next_room;
    uint64_t expired, interval = 1e9 / opt.rate;
    if (read(timer_fd, &expired, sizeof expired) < 0 || !running) return;
    while (expired--) publish(next_room++ % opt.rooms), scheduled += interval;
}

static void on_stdin(void) {
    char text[64];
    ssize_t n = read(0, text, sizeof text);
    if (n <= 0) exit(2);   /* the parent process has ended */
    stdin_line++;
}

static void poll_once(int ms) {   /* one loop iteration, which waits for events for at most `ms` */
    static struct epoll_event events[512];
    int n = epoll_wait(ep, events, 512, ms);
    for (int i = 0; i < n; i++) {
        uint32_t index = events[i].data.u32;
        if (index == (uint32_t)n_clients) { on_timer(); continue; }
        if (index == (uint32_t)n_clients + 1) { on_stdin(); continue; }
        struct client *c = &clients[index];
        if (c->state == CONNECTING) { on_connected(c); continue; }
        if (events[i].events & EPOLLOUT) flush(c);
        if (events[i].events & ~EPOLLOUT) on_readable(c);
    }
    if (n_retry) retry();
    chatter();
    flush_dirty();
}

/* The run */

static void run_for(double seconds) {
    uint64_t end = now() + seconds * 1e9;
    for (uint64_t t; (t = now()) < end;) poll_once((end - t) / 1000000 + 1 > 20 ? 20 : (end - t) / 1000000 + 1);
}

static double connect_all(void) {   /* returns the seconds that it took */
    uint64_t begin = now(), end = begin + opt.patience * 1e9;
    int next = 0, given_up = 0;
    while (n_ready + given_up < n_clients && now() < end) {
        while (next < n_clients && n_shaking < opt.ramp) start(&clients[next++]);
        poll_once(20);
        given_up = next - n_ready - n_shaking;
    }
    return (now() - begin) / 1e9;
}

static int all_received(void) {
    for (int i = 0; i < n_clients; i++)
        if (clients[i].received < rooms[clients[i].room].sent) return 0;
    return 1;
}

static void begin_publishing(void) {
    scheduled = chatter_begin = now();
    running = 1;
    for (int w = 0; w < opt.window; w++)
        for (int r = 0; r < opt.rooms; r++) publish(r);
    if (opt.rate <= 0) return;
    uint64_t interval = 1e9 / opt.rate;
    scheduled += interval;   /* when the timer expires first */
    struct itimerspec every = {
        .it_value = { scheduled / 1000000000, scheduled % 1000000000 },
        .it_interval = { interval / 1000000000, interval % 1000000000 } };
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &every, NULL);
}

static double run(void) {   /* returns the seconds that were counted */
    begin_publishing();
    run_for(opt.warmup);
    uint64_t begin = now(), end = begin + opt.patience * 1e9;
    counting = 1;
    while (opt.back_to && !last_back && now() < end) poll_once(20);
    run_for(opt.duration);
    double seconds = (now() - begin) / 1e9;
    counting = running = 0;
    for (end = now() + opt.drain * 1e9; !all_received() && now() < end;) poll_once(20);
    for (int i = 0; i < n_clients; i++) lost += rooms[clients[i].room].sent - clients[i].received;
    return seconds;
}

static void report(double connecting, int ready, double seconds) {
    printf("{\"connections\": %d, \"ready\": %d, \"connecting_s\": %.3f, \"seconds\": %.3f, \"published\": %llu, "
        "\"delivered\": %llu, \"others\": %llu, \"lost\": %llu, \"late\": %llu, \"doubled\": %llu, \"p50_ms\": %.3f, "
        "\"p99_ms\": %.3f, \"max_ms\": %.3f, \"dropped\": %d, \"away\": %d, \"recovered\": %llu, "
        "\"not_recovered\": %llu, \"retries\": %llu, \"first_drop\": %.6f, \"last_back\": %.6f, \"closes\": {",
        n_clients, ready, connecting, seconds, (ull)published, (ull)delivered, (ull)others, (ull)lost, (ull)late, (ull)doubled,
        percentile(.5), percentile(.99), percentile(1), n_dropped, n_away, (ull)recovered,
        (ull)not_recovered, (ull)retries, first_drop / 1e9, last_back / 1e9);
    const char *comma = "";
    for (int i = 0; i < CLOSE_CODES; i++)
        if (close_codes[i]) printf("%s\"%d\": %llu", comma, i, (ull)close_codes[i]), comma = ", ";
    puts("}}"), fflush(stdout);
}

static void read_tokens(const char *name) {
    FILE *file = fopen(name, "r");
    char *line = NULL;
    size_t size = 0;
    if (!file) fail("%s: %s", name, strerror(errno));
    while (getline(&line, &size, file) > 0) {
        line[strcspn(line, "\r\n")] = 0;
        tokens = realloc(tokens, (n_tokens + 1) * sizeof *tokens);
        tokens[n_tokens++] = strdup(line);
        if ((int)strlen(line) > longest_token) longest_token = strlen(line);
    }
    if (!n_tokens) fail("%s has no tokens", name);
    fclose(file);
}

static void read_options(int count, char **words) {
    const struct { const char *name; int *number; double *real; const char **text; } options[] = {
        {"publishers", .number = &opt.publishers}, {"members", .number = &opt.members},
        {"return", .number = &opt.back_to}, {"rooms", .number = &opt.rooms},
        {"per-room", .number = &opt.per_room}, {"ramp", .number = &opt.ramp},
        {"window", .number = &opt.window}, {"pad", .number = &opt.pad},
        {"first", .number = &opt.first}, {"rate", .real = &opt.rate}, {"chatter-rate", .real = &opt.chatter_rate},
        {"duration", .real = &opt.duration}, {"warmup", .real = &opt.warmup}, {"drain", .real = &opt.drain},
        {"patience", .real = &opt.patience}, {"path", .text = &opt.path}, {"tokens", .text = &opt.tokens},
        {"join", .text = &opt.join}, {"joined", .text = &opt.joined}, {"recovered", .text = &opt.recovered},
        {"publish", .text = &opt.publish}, {"chatter", .text = &opt.chatter}, {"ping", .text = &opt.ping} };
    for (int i = 1, found; i < count; i += 2) {
        char *value = i + 1 < count ? words[i + 1] : NULL, *name = words[i] + 2;
        found = !strcmp(words[i], "--hello") && value && opt.n_hello < MAX_HELLO;
        if (found) opt.hello[opt.n_hello++] = value;
        for (size_t o = 0; value && !found && o < sizeof options / sizeof *options; o++) {
            if (strncmp(words[i], "--", 2) || strcmp(name, options[o].name)) continue;
            found = 1;
            if (options[o].number) *options[o].number = atoi(value);
            else if (options[o].real) *options[o].real = atof(value);
            else *options[o].text = value;
        }
        if (!found) fail("%s is not an option or has no value; see the first comment of load.c", words[i]);
    }
    if (opt.ping) {
        char *colon = strchr(opt.ping, ':');
        if (!colon) fail("--ping is TEXT:REPLY");
        *colon = 0, opt.pong = colon + 1;
    }
    if (!opt.publishers || !opt.members) fail("--publishers and --members are needed");
    if (!opt.join || !opt.joined) fail("--join and --joined are needed");
    if (opt.rooms < 1 || opt.per_room < 1) fail("--rooms and --per-room are at least 1");
    if (opt.window >= MAX_WINDOW) fail("--window is below %d", MAX_WINDOW);
    if ((opt.window || opt.rate > 0) && !opt.publish) fail("--publish is needed");
}

static void make_clients(void) {
    n_clients = opt.rooms * (1 + opt.per_room);
    clients = calloc(n_clients, sizeof *clients), dirty = calloc(n_clients, sizeof *dirty);
    rooms = calloc(opt.rooms, sizeof *rooms);
    for (int i = 0; i < n_clients; i++) {
        clients[i].room = i % opt.rooms;
        clients[i].port = i < opt.rooms ? opt.publishers : opt.members;
    }
    ep = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event timer = { .events = EPOLLIN, .data.u32 = n_clients };
    struct epoll_event line = { .events = EPOLLIN, .data.u32 = n_clients + 1 };
    epoll_ctl(ep, EPOLL_CTL_ADD, timer_fd, &timer);
    epoll_ctl(ep, EPOLL_CTL_ADD, 0, &line);
}

int main(int count, char **words) {
    read_options(count, words);
    if (opt.tokens) read_tokens(opt.tokens);
    make_clients();
    double connecting = connect_all(), seconds = 0;
    int ready = n_ready;
    printf("READY %d\n", ready), fflush(stdout);
    while (stdin_line < 1) poll_once(20);
    if (opt.window || opt.rate > 0) seconds = run();
    else while (stdin_line < 2) poll_once(20);
    report(connecting, ready, seconds);
    getchar();
    return 0;
}
