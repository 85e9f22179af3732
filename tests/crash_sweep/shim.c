/* Stands between the forwarder and the C library, and makes one call go wrong: the process dies before it, after it or in the
 * middle of it, or the call fails or does half of its work.
 *
 * Calls that matter are those that change what lies below one of two directories (opening a file is one of them: it may create it),
 * and those that send to one of the named ports. They are counted by place, over all threads, so that "the 17th call in the state
 * directory" is the same call however threads are scheduled. Each is written to a log before it is made.
 *
 * Why not strace: its counters are per thread, and the runtime hands file work to whichever thread is free. strace is the referee
 * instead: main.rs compares its record of a run with this log, so that a call which got past this file is noticed.
 *
 * Environment: SWEEP_LOG, a file; SWEEP_PLACES, `name=/directory` or `name=port`, joined by `;`; SWEEP_PLACE, SWEEP_NUMBER and
 * SWEEP_FAULT (kill, after, half, short, term, or an errno), what goes wrong and where; SWEEP_CALLS, names joined by commas, the
 * only ones that count; SWEEP_WHILE, a file: while it is there, every later call of the place goes wrong as well. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define PLACES_MAX 8
#define PATH_BYTES 1024

struct place {
    char name[16];
    char directory[PATH_BYTES]; /* empty: a port */
    int port;
    atomic_long calls;
};

static struct place places[PLACES_MAX];
static int places_count;
static int log_fd = -1;
static struct place *target;
static long target_number;
static const char *fault = "";
static int fault_errno;
static const char *calls = "";
static const char *while_file;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("SWEEP_LOG");
    if (!log) return;
    char text[4096];
    snprintf(text, sizeof text, "%s", setting("SWEEP_PLACES"));
    char *rest = text, *one;
    while ((one = strsep(&rest, ";")) && places_count < PLACES_MAX) {
        char *value = strchr(one, '=');
        if (!value) continue;
        *value++ = 0;
        struct place *place = &places[places_count++];
        snprintf(place->name, sizeof place->name, "%s", one);
        if (*value == '/') snprintf(place->directory, sizeof place->directory, "%s", value);
        else place->port = atoi(value);
        if (!strcmp(place->name, setting("SWEEP_PLACE"))) target = place;
    }
    target_number = atol(setting("SWEEP_NUMBER"));
    fault = setting("SWEEP_FAULT");
    fault_errno = atoi(fault);
    calls = setting("SWEEP_CALLS");
    while_file = getenv("SWEEP_WHILE");
    int opened = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    /* Far from the numbers that the process itself gets. */
    log_fd = fcntl(opened, F_DUPFD_CLOEXEC, 900);
    syscall(SYS_close, opened);
}

static struct place *of_path(int directory_fd, const char *path, char *full) {
    if (!path || log_fd < 0) return NULL;
    if (*path == '/') {
        snprintf(full, PATH_BYTES, "%s", path);
    } else {
        char base[PATH_BYTES], link[64];
        if (directory_fd == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", directory_fd);
        long length = syscall(SYS_readlink, link, base, sizeof base - 1);
        if (length < 0) return NULL;
        base[length] = 0;
        if (snprintf(full, PATH_BYTES, "%s/%s", base, path) >= PATH_BYTES) return NULL;
    }
    for (int at = 0; at < places_count; at++) {
        size_t length = strlen(places[at].directory);
        if (length && !strncmp(full, places[at].directory, length) && (!full[length] || full[length] == '/'))
            return &places[at];
    }
    return NULL;
}

static struct place *of_fd(int fd, char *full) {
    if (log_fd < 0) return NULL;
    int kept = errno;
    char link[64], path[PATH_BYTES];
    struct place *found = NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        if (path[0] == '/') {
            found = of_path(AT_FDCWD, path, full);
        } else if (!strncmp(path, "socket:", 7)) {
            struct sockaddr_in peer;
            socklen_t size = sizeof peer;
            if (!getpeername(fd, (struct sockaddr *)&peer, &size) && peer.sin_family == AF_INET) {
                for (int at = 0; at < places_count; at++)
                    if (places[at].port && places[at].port == ntohs(peer.sin_port)) found = &places[at];
                snprintf(full, PATH_BYTES, "%d", ntohs(peer.sin_port));
            }
        }
    }
    errno = kept;
    return found;
}

static void say(const char *form, ...) {
    char line[2 * PATH_BYTES];
    va_list values;
    va_start(values, form);
    int length = vsnprintf(line, sizeof line, form, values);
    va_end(values);
    if (length > 0) syscall(SYS_write, log_fd, line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
}

static int counts(const char *call) {
    if (!*calls) return 1;
    size_t length = strlen(call);
    for (const char *at = calls; (at = strstr(at, call)); at += length)
        if ((at == calls || at[-1] == ',') && (at[length] == ',' || !at[length])) return 1;
    return 0;
}

/* What is to become of this call: 0 nothing special; otherwise the first letter of the fault, or 'e' for an errno. */
static char meet(struct place *place, const char *call, const char *path, long offset, long length) {
    if (!place) return 0;
    int kept = errno;
    long number = counts(call) ? atomic_fetch_add(&place->calls, 1) + 1 : 0;
    int hit = place == target && number &&
              (while_file ? number >= target_number && !syscall(SYS_access, while_file, F_OK)
                          : number == target_number);
    say("%s %s %ld %s %ld %ld %s\n", hit ? "HIT" : "call", place->name, number, call, offset, length, path);
    if (hit && !strcmp(fault, "kill")) kill(getpid(), SIGKILL);
    if (hit && !strcmp(fault, "term")) kill(getpid(), SIGTERM);
    errno = kept;
    return !hit ? 0 : fault_errno ? 'e' : fault[0];
}

/* After the call: what is durable is known from these lines. */
static void met(struct place *place, char what, const char *call, long result, const char *path) {
    if (!place) return;
    int kept = errno;
    say("done %s 0 %s %ld 0 %s\n", place->name, call, result, path);
    if (what == 'a' || what == 'h') kill(getpid(), SIGKILL);
    errno = kept;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL (errno = fault_errno, -1)
static size_t part(char what, size_t length) {
    return (what == 'h' || what == 's') && length > 1 ? length / 2 : length;
}

#define ON_PATH(name, call, arguments, values, directory_fd, path)                  \
    int name arguments {                                                            \
        char full[PATH_BYTES] = "";                                                 \
        struct place *place = of_path(directory_fd, path, full);                    \
        char what = meet(place, call, full, 0, 0);                                  \
        int result = what == 'e' ? FAIL : REAL(name) values;                        \
        met(place, what, call, result, full);                                       \
        return result;                                                              \
    }

ON_PATH(unlink, "unlink", (const char *path), (path), AT_FDCWD, path)
ON_PATH(unlinkat, "unlink", (int at, const char *path, int flags), (at, path, flags), at, path)
ON_PATH(rmdir, "rmdir", (const char *path), (path), AT_FDCWD, path)
ON_PATH(mkdir, "mkdir", (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
ON_PATH(mkdirat, "mkdir", (int at, const char *path, mode_t mode), (at, path, mode), at, path)
ON_PATH(rename, "rename", (const char *from, const char *to), (from, to), AT_FDCWD, to)
ON_PATH(renameat, "rename", (int at, const char *from, int new_at, const char *to), (at, from, new_at, to), new_at, to)
ON_PATH(renameat2, "rename", (int at, const char *from, int new_at, const char *to, unsigned flags),
        (at, from, new_at, to, flags), new_at, to)
ON_PATH(link, "link", (const char *from, const char *to), (from, to), AT_FDCWD, to)
ON_PATH(linkat, "link", (int at, const char *from, int new_at, const char *to, int flags),
        (at, from, new_at, to, flags), new_at, to)
ON_PATH(symlink, "symlink", (const char *from, const char *to), (from, to), AT_FDCWD, to)
ON_PATH(truncate, "truncate", (const char *path, off_t length), (path, length), AT_FDCWD, path)
ON_PATH(truncate64, "truncate", (const char *path, off64_t length), (path, length), AT_FDCWD, path)

#define ON_OPEN(name, arguments, values, directory_fd)                              \
    int name arguments {                                                            \
        mode_t mode = 0;                                                            \
        if (flags & (O_CREAT | O_TMPFILE)) {                                        \
            va_list rest;                                                           \
            va_start(rest, flags);                                                  \
            mode = va_arg(rest, mode_t);                                            \
            va_end(rest);                                                           \
        }                                                                           \
        char full[PATH_BYTES] = "";                                                 \
        struct place *place = of_path(directory_fd, path, full);                    \
        char what = meet(place, "open", full, flags, 0);                            \
        int result = what == 'e' ? FAIL : REAL(name) values;                        \
        met(place, what, "open", result, full);                                     \
        return result;                                                              \
    }

ON_OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
ON_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
ON_OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
ON_OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)

/* Listing a directory begins with opening it. */
DIR *opendir(const char *path) {
    char full[PATH_BYTES] = "";
    struct place *place = of_path(AT_FDCWD, path, full);
    char what = meet(place, "open", full, O_DIRECTORY, 0);
    DIR *result = what == 'e' ? (errno = fault_errno, NULL) : REAL(opendir)(path);
    met(place, what, "open", result ? 0 : -1, full);
    return result;
}

#define ON_FD(name, call, arguments, values, offset, length)                        \
    int name arguments {                                                            \
        char full[PATH_BYTES] = "";                                                 \
        struct place *place = of_fd(fd, full);                                      \
        char what = meet(place, call, full, offset, length);                        \
        int result = what == 'e' ? FAIL : REAL(name) values;                        \
        met(place, what, call, result, full);                                       \
        return result;                                                              \
    }

ON_FD(fsync, "fsync", (int fd), (fd), 0, 0)
ON_FD(fdatasync, "fdatasync", (int fd), (fd), 0, 0)
ON_FD(ftruncate, "ftruncate", (int fd, off_t size), (fd, size), size, 0)
ON_FD(ftruncate64, "ftruncate", (int fd, off64_t size), (fd, size), size, 0)
ON_FD(fallocate, "fallocate", (int fd, int mode, off_t from, off_t size), (fd, mode, from, size), from, size)
ON_FD(fallocate64, "fallocate", (int fd, int mode, off64_t from, off64_t size), (fd, mode, from, size), from, size)

/* These two answer with the error itself. */
#define ON_ALLOCATE(name, type)                                                     \
    int name(int fd, type from, type size) {                                        \
        char full[PATH_BYTES] = "";                                                 \
        struct place *place = of_fd(fd, full);                                      \
        char what = meet(place, "fallocate", full, from, size);                     \
        int result = what == 'e' ? fault_errno : REAL(name)(fd, from, size);        \
        met(place, what, "fallocate", result, full);                                \
        return result;                                                              \
    }

ON_ALLOCATE(posix_fallocate, off_t)
ON_ALLOCATE(posix_fallocate64, off64_t)

#define ON_BYTES(name, call, arguments, values, offset)                             \
    ssize_t name arguments {                                                        \
        char full[PATH_BYTES] = "";                                                 \
        struct place *place = of_fd(fd, full);                                      \
        char what = meet(place, call, full, offset, length);                        \
        length = part(what, length);                                                \
        ssize_t result = what == 'e' ? FAIL : REAL(name) values;                    \
        met(place, what, call, result, full);                                       \
        return result;                                                              \
    }

ON_BYTES(write, "write", (int fd, const void *bytes, size_t length), (fd, bytes, length), -1)
ON_BYTES(pwrite, "pwrite", (int fd, const void *bytes, size_t length, off_t at), (fd, bytes, length, at), at)
ON_BYTES(pwrite64, "pwrite", (int fd, const void *bytes, size_t length, off64_t at), (fd, bytes, length, at), at)
ON_BYTES(send, "send", (int fd, const void *bytes, size_t length, int flags), (fd, bytes, length, flags), -1)
ON_BYTES(sendto, "send",
         (int fd, const void *bytes, size_t length, int flags, const struct sockaddr *to, socklen_t size),
         (fd, bytes, length, flags, to, size), -1)

/* A part of several pieces is half of the first. */
static ssize_t pieces(char what, const struct iovec *pieces, struct iovec *first) {
    if (what != 'h' && what != 's') return 0;
    *first = pieces[0];
    first->iov_len = part(what, first->iov_len);
    return 1;
}

static long total(const struct iovec *pieces, int count) {
    long bytes = 0;
    for (int at = 0; at < count; at++) bytes += (long)pieces[at].iov_len;
    return bytes;
}

ssize_t writev(int fd, const struct iovec *list, int count) {
    char full[PATH_BYTES] = "";
    struct iovec first;
    struct place *place = of_fd(fd, full);
    char what = meet(place, "writev", full, -1, total(list, count));
    if (pieces(what, list, &first)) list = &first, count = 1;
    ssize_t result = what == 'e' ? FAIL : REAL(writev)(fd, list, count);
    met(place, what, "writev", result, full);
    return result;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    char full[PATH_BYTES] = "";
    struct iovec first;
    struct msghdr copy = *message;
    struct place *place = of_fd(fd, full);
    char what = meet(place, "send", full, -1, total(copy.msg_iov, (int)copy.msg_iovlen));
    if (pieces(what, copy.msg_iov, &first)) copy.msg_iov = &first, copy.msg_iovlen = 1;
    ssize_t result = what == 'e' ? FAIL : REAL(sendmsg)(fd, &copy, flags);
    met(place, what, "send", result, full);
    return result;
}
