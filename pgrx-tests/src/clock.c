/*
 * The time of day of a server under test, off by what a file says: loaded in front of the C library.
 *
 * The file holds one number of microseconds in the machine's own byte order, and is mapped, so that every process of the
 * server sees a step at the same moment. Clocks that measure how long something takes are not touched.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_us;

__attribute__((constructor)) static void open_file(void)
{
    const char *path = getenv("MELD_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);

    if (mapped == MAP_FAILED)
        abort();
    close(file);
    offset_us = mapped;
}

static int64_t now_us(void)
{
    struct timespec at;

    syscall(SYS_clock_gettime, CLOCK_REALTIME, &at);
    return at.tv_sec * INT64_C(1000000) + at.tv_nsec / 1000 + *offset_us;
}

int clock_gettime(clockid_t id, struct timespec *at)
{
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) {
        int64_t now = now_us();

        at->tv_sec = now / 1000000;
        at->tv_nsec = now % 1000000 * 1000;
        return 0;
    }
    return syscall(SYS_clock_gettime, id, at);
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    int64_t now = now_us();

    (void) zone;
    at->tv_sec = now / 1000000;
    at->tv_usec = now % 1000000;
    return 0;
}

time_t time(time_t *at)
{
    time_t now = now_us() / 1000000;

    if (at)
        *at = now;
    return now;
}
