/* A disk that fails at one place: loaded before the C library, it makes the n-th change of a file below a folder fail.

   fault_arm(folder, n, error, lasting): the n-th change from now on, counted from 0, fails with the number of an error; with
   `lasting` so do all that follow. A write takes half of what it is given, which is no error, where the error is 0; where it is
   below 0 the changes after that one fail. fault_disarm() gives back how many changes were asked for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static int armed, count, at, number, lasting;

void fault_arm(const char *where, int n, int error, int last) {
    strncpy(folder, where, sizeof folder - 1);
    at = n, number = error, lasting = last, count = 0, armed = 1;
}

int fault_disarm(void) { armed = 0; return count; }

static int below(const char *path) { return armed && path && !strncmp(path, folder, strlen(folder)); }

static int open_below(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* Whether this change is to fail. */
static int due(void) { int n = count++; return n == at || (lasting && n > at); }

/* The error of a change that is due; 0 for a write that takes half. */
static int error(void) { return number >= 0 ? number : count - 1 > at ? -number : 0; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL(is_below) if ((is_below) && due() && error()) { errno = error(); return -1; }
#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (flags & (O_CREAT | O_WRONLY | O_RDWR)) FAIL(below(path)) \
        return real(path, flags, mode); }
OPENS(open)
OPENS(open64)
#define WRITES(name, more, give) \
    ssize_t name(int descriptor, const void *data, size_t size more) { \
        REAL(name); \
        if (open_below(descriptor) && due()) { \
            if (error()) { errno = error(); return -1; } \
            if (size > 1) size /= 2; } \
        return real(descriptor, data, size give); }
#define COMMA ,
WRITES(write, , )
WRITES(pwrite, COMMA off_t offset, COMMA offset)
WRITES(pwrite64, COMMA off64_t offset, COMMA offset)
ssize_t writev(int descriptor, const struct iovec *parts, int n) { REAL(writev); FAIL(open_below(descriptor)) return real(descriptor, parts, n); }
int fsync(int descriptor) { REAL(fsync); FAIL(open_below(descriptor)) return real(descriptor); }
int fdatasync(int descriptor) { REAL(fdatasync); FAIL(open_below(descriptor)) return real(descriptor); }
int ftruncate(int descriptor, off_t size) { REAL(ftruncate); FAIL(open_below(descriptor)) return real(descriptor, size); }
int ftruncate64(int descriptor, off64_t size) { REAL(ftruncate64); FAIL(open_below(descriptor)) return real(descriptor, size); }
int rename(const char *from, const char *to) { REAL(rename); FAIL(below(to)) return real(from, to); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); FAIL(below(path)) return real(path, mode); }
int unlink(const char *path) { REAL(unlink); FAIL(below(path)) return real(path); }
int rmdir(const char *path) { REAL(rmdir); FAIL(below(path)) return real(path); }
