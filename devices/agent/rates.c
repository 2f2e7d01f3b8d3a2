#include "rates.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "clock.h"
#include "events.h"
#include "peak.h"

enum { KINDS = 3, LEAST_WINDOWS = 3, ARRAY_BYTES = 32 << 20 };

static const int64_t WINDOW_NS = 20000000;

static struct {
    float *a, *b, *c;
    size_t count;
} triad;

static double triad_bytes(long rounds) {
    for (long round = 0; round < rounds; round++) {
        float *restrict a = triad.a;
        const float *restrict b = triad.b, *restrict c = triad.c;
        for (size_t i = 0; i < triad.count; i++) a[i] = b[i] + 3.0F * c[i];
        __asm__ volatile("" : : "r"(a) : "memory");
    }
    return 3.0 * (double)triad.count * sizeof(float) * (double)rounds;
}

static void make_triad(void) {
    triad.count = ARRAY_BYTES / sizeof(float);
    triad.a = malloc(ARRAY_BYTES);
    triad.b = malloc(ARRAY_BYTES);
    triad.c = malloc(ARRAY_BYTES);
    if (triad.a == NULL || triad.b == NULL || triad.c == NULL) fail(EXIT_FAILED, "out of memory");
    for (size_t i = 0; i < triad.count; i++) {
        triad.a[i] = 0;
        triad.b[i] = 1;
        triad.c[i] = 2;
    }
}

/* The best window's amount a second; `work` does so many rounds and returns what they amount to. */
static double best(double (*work)(long rounds), int64_t ns) {
    double highest = 0;
    long rounds = 1;
    int64_t end = now_ns() + ns;
    for (int windows = 0; windows < LEAST_WINDOWS || now_ns() < end;) {
        int64_t start = now_ns();
        double amount = work(rounds);
        int64_t taken = now_ns() - start;
        if (taken < WINDOW_NS && rounds < 1L << 30) {
            rounds *= 2;
            continue;
        }
        double rate = amount * 1e9 / (double)taken;
        if (rate > highest) highest = rate;
        windows++;
    }
    return highest;
}

void rates(double seconds) {
    int64_t each = seconds_ns(seconds) / KINDS;
    make_triad();
    double bandwidth = best(triad_bytes, each);
    double floats = best(peak_float32(), each);
    double integers = best(peak_int8(), each);
    event_begin("rates");
    event_number("bandwidth_bytes_per_s", bandwidth);
    event_number("float32_flops_per_s", floats);
    event_number("int8_ops_per_s", integers);
    event_end();
}
