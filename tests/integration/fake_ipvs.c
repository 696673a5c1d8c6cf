/*
 * A kernel without IPVS, made to look as if it had it, for one keepalived: loaded before the C library, this takes every
 * order that keepalived gives the kernel's table (getsockopt and setsockopt, as of before there was netlink for it), and
 * does nothing.  All else about keepalived is real: it reads, checks, reloads and ends as it does with the module ip_vs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

enum { FIRST = 64 + 1024 + 64, COUNT = 64 }; /* IP_VS_BASE_CTL, linux/ip_vs.h */

static int about_ipvs(int level, int name) {
    return level == IPPROTO_IP && name >= FIRST && name < FIRST + COUNT;
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
    int (*real)(int, int, int, void *, socklen_t *) = dlsym(RTLD_NEXT, "getsockopt");
    if (!about_ipvs(level, name))
        return real(fd, level, name, value, length);
    memset(value, 0, *length);
    return 0;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
    int (*real)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    return about_ipvs(level, name) ? 0 : real(fd, level, name, value, length);
}
