/* The wall clock of one process, set as an administrator sets it, while the machine's stays as it is.
 *
 * Debian's libfaketime cannot do this: it moves absolute timers of every clock by the wall clock's
 * offset (timerfd_settime in 0.9.10), and so breaks those of CLOCK_BOOTTIME, which no administrator
 * can set. Nor does it tell a process that asked for it (TFD_TIMER_CANCEL_ON_SET, timerfd_create(2))
 * that the clock was set.
 *
 * The file WALL_CLOCK_FILE holds one int64_t: the seconds by which the clock is ahead. Writing it
 * sets the clock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("WALL_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) ahead = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += *ahead;
    return result;
}

/* A timer that waits for the clock to be set becomes readable when the file is written. Any other
 * timer is the kernel's. */
int timerfd_settime(int timer, int flags, const struct itimerspec *new, struct itimerspec *old) {
    if (!ahead || !(flags & TFD_TIMER_CANCEL_ON_SET))
        return syscall(SYS_timerfd_settime, timer, flags, new, old);
    int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watch < 0) return -1;
    int result = inotify_add_watch(watch, getenv("WALL_CLOCK_FILE"), IN_MODIFY);
    if (result >= 0) result = dup3(watch, timer, O_CLOEXEC);
    close(watch);
    return result < 0 ? -1 : 0;
}
