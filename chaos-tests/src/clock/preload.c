/* A wall clock that is wrong: loaded into one process before its libraries, by the loader. See clock.rs.
 *
 * It must not allocate: the allocator asks for the time before it can. So there is nothing here but system calls, and one page
 * that says how many seconds the clock is off. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Moments of the wall clock are later than this in seconds, and moments since the machine's start are earlier. */
#define BETWEEN_CLOCKS 1000000000

static const volatile int64_t right = 0;
static const volatile int64_t *offset = &right;

__attribute__((constructor)) static void find_offset(void) {
  const char *path = getenv("WRONG_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (page == MAP_FAILED) abort(); /* a clock that is right would be a test of nothing */
  close(file);
  offset = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec precise;
  if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
  *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
  return 0;
}

time_t time(time_t *now) {
  struct timespec precise;
  if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
  if (now) *now = precise.tv_sec;
  return precise.tv_sec;
}

/* The kernel knows the right time alone, so who waits until a moment by the wrong clock waits until the same moment by the
 * right one. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  struct timespec moment = *until;
  if (moment.tv_sec < BETWEEN_CLOCKS) return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &moment);
  moment.tv_sec -= *offset;
  return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &moment);
}
