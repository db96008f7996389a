/* Two processes hand one cache line to and fro: what no call between them can be faster than.
   Writes a line for each byte it reads: nanoseconds of a round trip, the median of some batches. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("isb" ::: "memory")
#else
#define relax() ((void)0)
#endif

enum { BATCHES = 101, ROUNDS = 50, WARM = 500 };

struct shared {
    _Alignas(128) _Atomic uint64_t there;
    _Alignas(128) _Atomic uint64_t back;
    char rest[128];
};

static void pin(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int order(const void *one, const void *other) {
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

static uint64_t round_trips(struct shared *shared, uint64_t at, int count) {
    for (int i = 0; i < count; i++, at++) {
        atomic_store_explicit(&shared->there, at, memory_order_release);
        while (atomic_load_explicit(&shared->back, memory_order_acquire) != at) relax();
    }
    return at;
}

int main(int count, char **arguments) {
    int ours = count > 1 ? atoi(arguments[1]) : 0, theirs = count > 2 ? atoi(arguments[2]) : 1;
    char ask;
    pin(ours);
    while (read(0, &ask, 1) == 1) {
        struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED) return 1;
        pid_t child = fork();
        if (child < 0) return 1;
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pin(theirs);
            for (uint64_t at = 1;; at++) {
                while (atomic_load_explicit(&shared->there, memory_order_acquire) != at) relax();
                atomic_store_explicit(&shared->back, at, memory_order_release);
            }
        }
        uint64_t times[BATCHES], at = round_trips(shared, 1, WARM);
        for (int i = 0; i < BATCHES; i++) {
            uint64_t start = now();
            at = round_trips(shared, at, ROUNDS);
            times[i] = now() - start;
        }
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        munmap(shared, sizeof *shared);
        qsort(times, BATCHES, sizeof times[0], order);
        printf("%.1f\n", (double)times[BATCHES / 2] / ROUNDS);
        fflush(stdout);
    }
    return 0;
}
