/* Many calls of send(2) or recv(2) in one. */

#ifndef ROOMCAST_RING_H
#define ROOMCAST_RING_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: uvloop and asyncio ignore SIGPIPE, as Python does */
#endif

/* At most so many go into one call. Of 1,024 the last peers wait longer, who could be busy with an answer: 1 to 3 % fewer
 * messages from those who wait for one before they send the next. */
#define RING_SIZE 128

struct transfer {
    char *data;
    size_t size;
    ssize_t done; /* how many bytes went, or minus an errno */
    int fd;
};

enum direction { SEND, RECEIVE };

/* Whether there is a ring: Linux may have none, may forbid it, as most containers do, and ROOMCAST_URING=0 does so. */
int ring_is_ready(void);

/* Do each of `transfers`, at most RING_SIZE, without waiting, in their order, and say in each what was `done`; by the ring
 * if it is ready. */
void ring_transfer(enum direction direction, struct transfer *transfers, int count);

#endif
