#include "sampler.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "events.h"
#include "sensors.h"

enum { MAX_SAMPLES = 1 << 22, FIRST_ROOM = 1024 };

struct sample {
    int64_t time_ns;
    int64_t value;
    size_t sensor;
};

static struct {
    const struct job *job;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool on, ended;
    int64_t lost_ns[JOB_MAX_SENSORS]; /* 0 as long as the sensor is there */
    struct sample *samples;
    size_t count, room;
} sampler = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static bool keep(size_t sensor, int64_t time_ns, int64_t value) {
    if (sampler.count == sampler.room) {
        size_t room = sampler.room == 0 ? FIRST_ROOM : 2 * sampler.room;
        struct sample *more = room > MAX_SAMPLES ? NULL : realloc(sampler.samples, room * sizeof *more);
        if (more == NULL) return false;
        sampler.samples = more;
        sampler.room = room;
    }
    sampler.samples[sampler.count++] = (struct sample){time_ns, value, sensor};
    return true;
}

static void read_all(void) {
    for (size_t i = 0; i < sampler.job->sensor_count; i++) {
        int64_t value = 0, time_ns = now_ns();
        if (sampler.lost_ns[i] != 0) continue;
        if (!sensor_integer(sampler.job->sensors[i], &value) || !keep(i, time_ns, value)) sampler.lost_ns[i] = time_ns;
    }
}

static void *work(void *unused) {
    const int64_t pace = (int64_t)sampler.job->sample_ms * 1000000;
    pthread_mutex_lock(&sampler.mutex);
    while (!sampler.ended) {
        if (!sampler.on) {
            pthread_cond_wait(&sampler.changed, &sampler.mutex);
            continue;
        }
        int64_t next = now_ns() + pace;
        read_all();
        while (sampler.on && !sampler.ended && now_ns() < next) {
            struct timespec until = {(time_t)(next / 1000000000), (long)(next % 1000000000)};
            pthread_cond_timedwait(&sampler.changed, &sampler.mutex, &until);
        }
    }
    pthread_mutex_unlock(&sampler.mutex);
    return unused;
}

static void set(bool on, bool ended) {
    pthread_mutex_lock(&sampler.mutex);
    sampler.on = on;
    sampler.ended = ended;
    pthread_cond_signal(&sampler.changed);
    pthread_mutex_unlock(&sampler.mutex);
}

void sampler_start(const struct job *job) {
    pthread_condattr_t monotonic;
    sampler.job = job;
    if (job->sensor_count == 0) return;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&sampler.changed, &monotonic);
    if (pthread_create(&sampler.thread, NULL, work, NULL) != 0) fail(EXIT_FAILED, "no thread for the sensors");
}

void sampler_on(void) {
    if (sampler.job->sensor_count > 0) set(true, false);
}

void sampler_off(void) {
    if (sampler.job->sensor_count > 0) set(false, false);
}

void sampler_finish(void) {
    if (sampler.job->sensor_count == 0) return;
    set(false, true);
    pthread_join(sampler.thread, NULL);
    for (size_t i = 0; i < sampler.count; i++) {
        event_begin("power");
        event_integer("sensor", (int64_t)sampler.samples[i].sensor);
        event_integer("time_ns", sampler.samples[i].time_ns);
        event_integer("value", sampler.samples[i].value);
        event_end();
    }
    for (size_t i = 0; i < sampler.job->sensor_count; i++) {
        if (sampler.lost_ns[i] == 0) continue;
        event_begin("power_lost");
        event_integer("sensor", (int64_t)i);
        event_integer("time_ns", sampler.lost_ns[i]);
        event_end();
    }
}
