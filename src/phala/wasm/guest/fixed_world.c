/* Loaded before the C library while the runtime module is built: chance, clocks and the times of
   files answer the same in every build. So two builds have one hash seed, and sets one order. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NOW 1700000000

ssize_t getrandom(void *out, size_t size, unsigned flags) {
    (void)flags;
    memset(out, 7, size);
    return (ssize_t)size;
}

int getentropy(void *out, size_t size) {
    memset(out, 7, size);
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    (void)clock;
    out->tv_sec = NOW;
    out->tv_nsec = 0;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    out->tv_sec = NOW;
    out->tv_usec = 0;
    return 0;
}

time_t time(time_t *out) {
    if (out) *out = NOW;
    return NOW;
}

int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict out) {
    long result = syscall(SYS_statx, dir, path, flags, mask, out);
    if (result == 0) {
        memset(&out->stx_atime, 0, sizeof out->stx_atime);
        memset(&out->stx_btime, 0, sizeof out->stx_btime);
        memset(&out->stx_ctime, 0, sizeof out->stx_ctime);
        memset(&out->stx_mtime, 0, sizeof out->stx_mtime);
        out->stx_ino = 1;
    }
    return (int)result;
}
