/*
 * Stops a program between any two of its steps, or lets a disk fail under it: loaded before the C library, into the
 * program alone (what it starts is left as it is).  A test speaks to it through a file that both have mapped.
 *
 * A step is a call after which the world outside is another: a file, a name of one, a process, a signal, a socket's name,
 * an order to the kernel's network.  Reading, waiting for the disk and speaking to a client are none: a process that is
 * killed leaves behind the same before and after them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NOTHING, KILL, FAIL };

/* As tests/faults/steps.py has it. */
struct shared {
    _Atomic int what;
    int error;           /* what steps fail with */
    _Atomic long at;     /* the step before which the program is killed, or from which on steps fail; the first is 1 */
    _Atomic long taken;  /* steps so far */
    char below[256];     /* the only directory whose steps fail, or count while they do */
    char last[512];      /* the step that was met by what was asked for */
};

static struct shared *shared;
static pid_t program;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("AMPHORA_STEPS");
    if (!path)
        return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *found = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found == MAP_FAILED)
        abort();
    shared = found;
    program = getpid();
    unsetenv("AMPHORA_STEPS");
    unsetenv("LD_PRELOAD");
}

/* Whether a step is to fail; errno says how.  Where the program is to be killed, this does not come back. */
static int fails(const char *name, const char *path) {
    int what = shared ? shared->what : NOTHING;
    if (what == NOTHING || getpid() != program)
        return 0;
    if (what == FAIL && (!path || strncmp(path, shared->below, strlen(shared->below))))
        return 0;
    long number = atomic_fetch_add(&shared->taken, 1) + 1;
    if (!shared->at || number < shared->at)
        return 0;
    if (number == shared->at)
        snprintf(shared->last, sizeof shared->last, "%s %s", name, path ? path : "");
    if (what == KILL) {
        kill(program, SIGKILL);
        for (;;)
            pause();
    }
    errno = shared->error;
    return 1;
}

static const char *path_of(int file, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, buffer, 255);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

/* Where a name below an open directory is; names from the root on are as they are. */
static const char *path_at(int directory, const char *name, char *buffer) {
    char parent[256];
    if (*name == '/' || directory == AT_FDCWD)
        return name;
    snprintf(buffer, 512, "%s/%s", path_of(directory, parent), name);
    return buffer;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPENING(name)                                                                                                  \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        if (flags & (O_CREAT | O_TRUNC) && fails("make", path))                                                        \
            return -1;                                                                                                 \
        return REAL(name)(path, flags, mode);                                                                          \
    }

OPENING(open)
OPENING(open64)

#define ONE_PATH(name, parameters, arguments, word)                                                                    \
    int name parameters {                                                                                              \
        return fails(word, path) ? -1 : REAL(name) arguments;                                                          \
    }

ONE_PATH(unlink, (const char *path), (path), "unlink")
ONE_PATH(rmdir, (const char *path), (path), "rmdir")
ONE_PATH(mkdir, (const char *path, mode_t mode), (path, mode), "mkdir")
ONE_PATH(chmod, (const char *path, mode_t mode), (path, mode), "chmod")
ONE_PATH(mkfifo, (const char *path, mode_t mode), (path, mode), "mkfifo")
ONE_PATH(rename, (const char *from, const char *path), (from, path), "rename to")
ONE_PATH(link, (const char *from, const char *path), (from, path), "link")

int unlinkat(int directory, const char *name, int flags) {
    char buffer[512];
    return fails("unlink", path_at(directory, name, buffer)) ? -1 : REAL(unlinkat)(directory, name, flags);
}

ssize_t write(int file, const void *data, size_t length) {
    struct stat status;
    char buffer[256];
    if (shared && shared->what != NOTHING && !fstat(file, &status) && S_ISREG(status.st_mode) &&
        fails("write", path_of(file, buffer)))
        return -1;
    return REAL(write)(file, data, length);
}

/* Nothing that a killed process would leave otherwise; but a disk can fail at it. */
int fsync(int file) {
    char buffer[256];
    if (shared && shared->what == FAIL && fails("fsync", path_of(file, buffer)))
        return -1;
    return REAL(fsync)(file);
}

pid_t fork(void) {
    return fails("fork", NULL) ? -1 : REAL(fork)();
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
    if (fails("spawn", path))
        return errno;
    return REAL(posix_spawn)(pid, path, actions, attributes, arguments, environment);
}

int posix_spawnp(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
    if (fails("spawn", path))
        return errno;
    return REAL(posix_spawnp)(pid, path, actions, attributes, arguments, environment);
}

int bind(int file, const struct sockaddr *address, socklen_t length) {
    const char *path = address->sa_family == AF_UNIX ? address->sa_data : NULL;
    if (path && *path && fails("bind", path))
        return -1;
    return REAL(bind)(file, address, length);
}

/* Python has no other way to signal a process that it has a descriptor of. */
long syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    long d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_pidfd_send_signal && fails("signal", NULL))
        return -1;
    return REAL(syscall)(number, a, b, c, d, e, f);
}

/* Of rtnetlink's messages every third only asks: linux/rtnetlink.h. */
static int orders(int file, const void *data, size_t length) {
    int domain = 0;
    socklen_t size = sizeof domain;
    const struct nlmsghdr *message = data;
    return length >= sizeof *message && !getsockopt(file, SOL_SOCKET, SO_DOMAIN, &domain, &size) &&
           domain == AF_NETLINK && message->nlmsg_type >= RTM_BASE && (message->nlmsg_type & 3) != 2;
}

ssize_t send(int file, const void *data, size_t length, int flags) {
    if (shared && shared->what != NOTHING && orders(file, data, length) && fails("netlink", NULL))
        return -1;
    return REAL(send)(file, data, length, flags);
}

ssize_t sendto(int file, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size) {
    if (shared && shared->what != NOTHING && orders(file, data, length) && fails("netlink", NULL))
        return -1;
    return REAL(sendto)(file, data, length, flags, to, size);
}
