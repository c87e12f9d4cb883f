/* Opens a file again and again, in a container or out of it, until SIGTERM; judges what can be judged
 * at once and prints the rest:
 *
 *   reads                    at the beginning
 *   token FIRST LAST BYTES   the same token from one open to another; CLOCK_BOOTTIME in nanoseconds
 *   differs SIZE LENGTH      fstat of the handle told another size than it has bytes
 *   error WHAT ERRNO
 *   opens NUMBER             at the end
 *
 * usage: reader PATH [fd]; with "fd" each second open goes through /proc/self/fd.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static unsigned long long boot_time(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static char token[65536], last[65536];
static ssize_t last_length = -1;
static unsigned long long first_open, last_open;

static void print_last(void)
{
	if (last_length >= 0) {
		printf("token %llu %llu ", first_open, last_open);
		fwrite(last, 1, last_length, stdout);
		putchar('\n');
		fflush(stdout);
	}
}

static void failed(const char *what)
{
	printf("error %s %d\n", what, errno);
	fflush(stdout);
}

static long size_of(int file)
{
	struct stat about;
	if (fstat(file, &about) != 0) {
		failed("fstat");
		return -1;
	}
	return about.st_size;
}

static void look(const char *path)
{
	unsigned long long now = boot_time();
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0) {
		if (!stopped)
			failed("open");
		return;
	}
	long before = size_of(file);
	ssize_t length = 0, got;
	while ((got = read(file, token + length, sizeof token - length)) > 0)
		length += got;
	if (got < 0)
		failed("read");
	long after = size_of(file);
	close(file);
	if (before != length || after != length) {
		printf("differs %ld %zd\n", before != length ? before : after, length);
		fflush(stdout);
	}
	if (length != last_length || memcmp(token, last, length) != 0) {
		print_last();
		memcpy(last, token, length);
		last_length = length;
		first_open = now;
	}
	last_open = now;
}

int main(int count, char **words)
{
	char link[64];
	unsigned long long opens = 0;
	struct sigaction action = { .sa_handler = stop, .sa_flags = SA_RESTART };
	struct timespec pause = { .tv_nsec = 1000000 };
	if (count < 2)
		return 2;
	int held = count > 2 ? open(words[1], O_RDONLY | O_CLOEXEC) : -1;
	if (count > 2 && held < 0)
		failed("open");
	snprintf(link, sizeof link, "/proc/self/fd/%d", held);
	sigaction(SIGTERM, &action, NULL);
	puts("reads");
	fflush(stdout);
	while (!stopped) {
		look(held >= 0 && opens % 2 ? link : words[1]);
		opens++;
		nanosleep(&pause, NULL);
	}
	print_last();
	printf("opens %llu\n", opens);
	return 0;
}
