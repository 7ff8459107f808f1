/* io_uring(7), without liburing: only setup, and one call that submits a batch and waits for all of its results. */

#include "io_uring.h"

#include <errno.h>

#if defined(__linux__) && defined(__has_include)
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#include <sys/syscall.h>
#endif
#endif

/* IORING_OP_SEND and IORING_OP_RECV are enum members, which the preprocessor cannot test. They came with Linux 5.6, and
 * this macro with 5.7. */
#if defined(IORING_FEAT_FAST_POLL) && defined(__NR_io_uring_setup) && defined(__NR_io_uring_enter)
#define HAVE_IO_URING
#endif

void
transfer_one(enum direction direction, struct transfer *transfer)
{
    do
        transfer->result = direction == SEND
                               ? send(transfer->fd, transfer->data, transfer->size, MSG_DONTWAIT | MSG_NOSIGNAL)
                               : recv(transfer->fd, transfer->data, transfer->size, MSG_DONTWAIT);
    while (transfer->result < 0 && errno == EINTR);
    if (transfer->result < 0)
        transfer->result = -errno;
}

#ifndef HAVE_IO_URING

int
io_uring_is_ready(void)
{
    return 0;
}

void
transfer_all(enum direction direction, struct transfer *transfers, int count)
{
    for (int i = 0; i < count; i++)
        transfer_one(direction, &transfers[i]);
}

#else

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The ring of this process. Of the 5 to 8 us of a send, entering and leaving the kernel takes 0.5 to 0.9 us. The ring
 * saves that for all transfers of a batch but one. It is empty outside of transfer_all. The GIL serializes access. */
static struct {
    enum { UNTRIED, READY, UNAVAILABLE } state;
    int fd;
    void *rings;
    size_t rings_size, entries_size;
    unsigned *submission_tail, *completion_head, *completion_tail;
    unsigned submission_mask, completion_mask;
    struct io_uring_sqe *entries;
    struct io_uring_cqe *completions;
} ring;

/* Map the memory of the ring `fd`. Return 0, or -1 with nothing mapped. */
static int
map_ring(int fd, const struct io_uring_params *params)
{
    const size_t submission_size = params->sq_off.array + params->sq_entries * sizeof(unsigned);
    const size_t completion_size = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
    ring.rings_size = submission_size > completion_size ? submission_size : completion_size;
    ring.entries_size = params->sq_entries * sizeof(struct io_uring_sqe);
    ring.rings = mmap(NULL, ring.rings_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    if (ring.rings == MAP_FAILED)
        return -1;
    void *entries = mmap(NULL, ring.entries_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    if (entries == MAP_FAILED) {
        munmap(ring.rings, ring.rings_size);
        return -1;
    }
    ring.entries = entries;
    return 0;
}

/* Create the ring. Return 0, or -1 if the system does not allow it. */
static int
set_up(void)
{
    const char *setting = getenv("ROOMCAST_URING");
    if (setting != NULL && strcmp(setting, "0") == 0)
        return -1;
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    const int fd = (int)syscall(__NR_io_uring_setup, MAX_TRANSFERS, &params); /* the kernel sets O_CLOEXEC */
    if (fd < 0)
        return -1;
    /* FAST_POLL is not used. It shows that the kernel is at least 5.7, because no flag shows IORING_OP_SEND. */
    const unsigned needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL;
    if ((params.features & needed) != needed || map_ring(fd, &params) < 0) {
        close(fd);
        return -1;
    }
    char *rings = ring.rings;
    ring.fd = fd;
    ring.submission_tail = (unsigned *)(rings + params.sq_off.tail);
    ring.submission_mask = *(unsigned *)(rings + params.sq_off.ring_mask);
    ring.completion_head = (unsigned *)(rings + params.cq_off.head);
    ring.completion_tail = (unsigned *)(rings + params.cq_off.tail);
    ring.completion_mask = *(unsigned *)(rings + params.cq_off.ring_mask);
    ring.completions = (struct io_uring_cqe *)(rings + params.cq_off.cqes);
    unsigned *order = (unsigned *)(rings + params.sq_off.array);
    for (unsigned i = 0; i < params.sq_entries; i++) {
        order[i] = i;
        memset(&ring.entries[i], 0, sizeof ring.entries[i]);
        /* With MSG_DONTWAIT every operation completes during submission. */
        ring.entries[i].msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    }
    return 0;
}

/* A forked child shares the ring with its parent. It must release its copy before it does anything else. */
static void
release_after_fork(void)
{
    if (ring.state == READY) {
        munmap(ring.rings, ring.rings_size);
        munmap(ring.entries, ring.entries_size);
        close(ring.fd);
        ring.state = UNTRIED;
    }
}

int
io_uring_is_ready(void)
{
    static int handles_forks;
    if (ring.state == UNTRIED) {
        if (!handles_forks)
            handles_forks = pthread_atfork(NULL, NULL, release_after_fork) == 0;
        ring.state = handles_forks && set_up() == 0 ? READY : UNAVAILABLE;
    }
    return ring.state == READY;
}

/* Write `transfers` to the submission queue, from its `tail` on. */
static void
prepare(enum direction direction, const struct transfer *transfers, int count, unsigned tail)
{
    for (int i = 0; i < count; i++) {
        struct io_uring_sqe *entry = &ring.entries[(tail + i) & ring.submission_mask];
        entry->opcode = direction == SEND ? IORING_OP_SEND : IORING_OP_RECV;
        entry->fd = transfers[i].fd;
        entry->addr = (uint64_t)(uintptr_t)transfers[i].data;
        entry->len = (uint32_t)transfers[i].size;
        entry->user_data = i;
    }
    __atomic_store_n(ring.submission_tail, tail + count, __ATOMIC_RELEASE);
}

/* Copy the results from the completion queue to `transfers`. Return their number. */
static int
collect(struct transfer *transfers)
{
    const unsigned first = *ring.completion_head;
    const unsigned end = __atomic_load_n(ring.completion_tail, __ATOMIC_ACQUIRE);
    for (unsigned i = first; i != end; i++) {
        const struct io_uring_cqe *completion = &ring.completions[i & ring.completion_mask];
        transfers[completion->user_data].result = completion->res;
    }
    __atomic_store_n(ring.completion_head, end, __ATOMIC_RELEASE);
    return (int)(end - first);
}

/* Do `transfers` with io_uring. Return how many are done, from the first: fewer than `count` if io_uring fails. */
static int
transfer_by_ring(enum direction direction, struct transfer *transfers, int count)
{
    const unsigned tail = *ring.submission_tail;
    prepare(direction, transfers, count, tail);
    int submitted = 0, done = 0;
    while (done < count) {
        const long taken =
            syscall(__NR_io_uring_enter, ring.fd, count - submitted, count - done, IORING_ENTER_GETEVENTS, NULL, 0);
        const int error = taken < 0 ? errno : 0;
        submitted += taken > 0 ? (int)taken : 0;
        done += collect(transfers);
        if (taken <= 0 && error != EINTR && done == submitted) {
            if (error != EAGAIN && error != EBUSY && error != ENOMEM)
                ring.state = UNAVAILABLE; /* permanently: closed, or forbidden since the setup */
            __atomic_store_n(ring.submission_tail, tail + submitted, __ATOMIC_RELEASE); /* withdraw the rest */
            break;
        }
    }
    return done;
}

void
transfer_all(enum direction direction, struct transfer *transfers, int count)
{
    int done = count >= MIN_TRANSFERS && io_uring_is_ready() ? transfer_by_ring(direction, transfers, count) : 0;
    for (; done < count; done++)
        transfer_one(direction, &transfers[done]);
}

#endif
