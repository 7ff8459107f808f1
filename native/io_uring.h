/* Many calls of send(2) or recv(2) in one system call. */

#ifndef ROOMCAST_IO_URING_H
#define ROOMCAST_IO_URING_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: uvloop and asyncio ignore SIGPIPE, as Python does */
#endif

/* With fewer transfers, io_uring costs more than it saves. */
#define MIN_TRANSFERS 4

/* The limit of one system call. With 1,024, the last peers of a batch wait longer although they could send their next
 * message: clients that wait for an answer before they send again then get 1 to 3 % fewer messages through. */
#define MAX_TRANSFERS 128

struct transfer {
    char *data;
    size_t size;
    ssize_t result; /* the number of bytes, or a negative errno */
    int fd;
};

enum direction { SEND, RECEIVE };

/* Return 1 if io_uring can be used. Old kernels lack it, most containers forbid it, ROOMCAST_URING=0 disables it. */
int io_uring_is_ready(void);

/* Do one transfer without waiting, in one system call, and set its result. */
void transfer_one(enum direction direction, struct transfer *transfer);

/* Do at most MAX_TRANSFERS `transfers` in order, without waiting, and set the result of each. Uses io_uring if that is
 * ready, otherwise one system call for each. */
void transfer_all(enum direction direction, struct transfer *transfers, int count);

#endif
