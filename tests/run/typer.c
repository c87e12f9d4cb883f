/* Types a line at the terminal on standard input, in every way that the kernel may have, and tells the
 * error of each: 0 where it was typed. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static char line[] = "echo typed-$((6 * 7))\n";

typedef long way(unsigned long request, char *byte);

static long native(unsigned long request, char *byte) {
    return syscall(SYS_ioctl, 0, request, byte) < 0 ? errno : 0;
}

/* The kernel looks at the low half of the request only. */
static long high(unsigned long request, char *byte) {
    return native(request | 0xdead0000UL << 16, byte);
}

#ifdef __x86_64__
static sigjmp_buf without;

static void is_missing(int number) {
    (void)number;
    siglongjmp(without, 1);
}

static long call32(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

static long i386(unsigned long request, char *byte) { return -call32(54, 0, (long)request, (long)byte); }

static long x32(unsigned long request, char *byte) {
    return syscall(0x40000000 | 514, 0, request, byte) < 0 ? errno : 0;
}
#endif

static void type(const char *name, way *way) {
    long error = 0;
    for (char *byte = line; *byte && !error; byte++)
        error = way(TIOCSTI, byte);
    printf(" %s=%ld", name, error);
}

int main(void) {
    printf("typing:");
    type("native", native);
    type("high", high);
#ifdef __x86_64__
    signal(SIGSEGV, is_missing);
    if (!sigsetjmp(without, 1)) {
        type("i386", i386);
        printf(" process32=%d", call32(20, 0, 0, 0) == getpid());
    }
    type("x32", x32);
#endif
    struct winsize size;
    printf(" size=%d", ioctl(0, TIOCGWINSZ, &size) < 0 ? errno : 0);
    printf("\n");
}
