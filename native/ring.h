/* Many calls of send(2) in one. */

#ifndef ROOMCAST_RING_H
#define ROOMCAST_RING_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: uvloop and asyncio ignore SIGPIPE, as Python does */
#endif

/* At most so many go into one call. */
#define RING_SIZE 1024

struct sending {
    const char *data;
    size_t size;
    size_t sent; /* how many of the bytes the kernel took; 0, too, where it refused them */
    int fd;
};

/* Whether there is a ring: Linux may have none, may forbid it, as most containers do, and ROOMCAST_URING=0 does so. */
int ring_is_ready(void);

/* Send each of `sendings`, at most RING_SIZE and each of another socket, without waiting, and say what was `sent`. */
void ring_send(struct sending *sendings, int count);

#endif
