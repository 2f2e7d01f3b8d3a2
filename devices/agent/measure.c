#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "complaints.h"
#include "events.h"
#include "files.h"
#include "job.h"
#include "library.h"
#include "memory.h"
#include "model.h"
#include "sampler.h"
#include "samples.h"
#include "sensors.h"
#include "series.h"

enum { VISITS = 4 }; /* in a block: one model, the other, the other, the one; a steady drift falls out */

static void load(struct model *model, enum runtime runtime, void *library, const char *file, int threads) {
    switch (runtime) {
        case RUNTIME_LITERT: litert_load(model, library, file, threads); return;
        case RUNTIME_ONNXRUNTIME: onnxruntime_load(model, library, file, threads); return;
        case RUNTIME_OPENVINO: openvino_load(model, library, file, threads); return;
        case RUNTIME_TFLITE_RUNTIME: tflite_runtime_load(model, library, file, threads); return;
        case RUNTIME_NONE: break;
    }
    fail(EXIT_BAD_JOB, "a model without a runtime");
}

/* Held until the process ends. */
static void take_lock(const char *path) {
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
    if (flock(file, LOCK_EX | LOCK_NB) == 0) return;
    event_begin("waiting");
    event_end();
    while (flock(file, LOCK_EX) != 0)
        if (errno != EINTR) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
}

static void tell_bytes(const char *key, int64_t bytes) {
    if (bytes < 0)
        event_null(key);
    else
        event_integer(key, bytes);
}

static void tell_tensor(size_t position, const char *kind, size_t index, const struct tensor *tensor) {
    event_begin("tensor");
    event_integer("model", (int64_t)position);
    event_text("kind", kind);
    event_integer("index", (int64_t)index);
    event_text("name", tensor->name);
    event_text("dtype", tensor->dtype);
    event_array_begin("shape");
    for (size_t axis = 0; axis < tensor->rank; axis++) event_integer(NULL, tensor->shape[axis]);
    event_array_end();
    event_integer("bytes", (int64_t)tensor->bytes);
    event_end();
}

static void load_model(const char *job_file, const struct job *job, size_t position, struct model *model) {
    const struct job_model *order = &job->models[position];
    const char *file = file_beside(job_file, order->file);
    if (access(file, R_OK) != 0) fail(EXIT_FAILED, "%s: %s", file, strerror(errno));
    complaints_begin();
    void *library = library_open(file_beside(job_file, order->library), order->runtime);
    event_begin("base_memory");
    event_integer("model", (int64_t)position);
    tell_bytes("bytes", memory_of_process("VmRSS"));
    event_end();
    int64_t start = now_ns();
    load(model, order->runtime, library, file, job->threads);
    int64_t end = now_ns();
    event_begin("load");
    event_integer("model", (int64_t)position);
    event_integer("ns", end - start);
    event_end();
    model->describe(model);
    for (size_t i = 0; i < model->input_count; i++) tell_tensor(position, "input", i, &model->inputs[i]);
    for (size_t i = 0; i < model->output_count; i++) tell_tensor(position, "output", i, &model->outputs[i]);
    samples_run(job_file, order, model, position);
    complaints_end();
}

/* Runs until there were this many runs and this time is over. */
static void repeat(struct model *model, struct series *series, int runs, int64_t ns) {
    int64_t end = now_ns() + ns;
    for (int done = 0; done < runs || now_ns() < end; done++) {
        int64_t start = now_ns();
        model->run(model);
        series_add(series, start, now_ns() - start);
    }
}

static void tell_phase(const char *name, int64_t start, int64_t end) {
    event_begin("phase");
    event_text("name", name);
    event_integer("start_ns", start);
    event_integer("end_ns", end);
    event_end();
}

static void idle(const struct job *job) {
    int64_t start = now_ns(), end = start + seconds_ns(job->idle_seconds);
    if (job->idle_seconds <= 0) return;
    struct timespec until = {(time_t)(end / 1000000000), (long)(end % 1000000000)};
    sampler_on();
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) continue;
    sampler_off();
    tell_phase("idle", start, now_ns());
}

/* Returns the slowest model's median in nanoseconds. */
static double warm_up(const struct job *job, struct model *models, const size_t *turns) {
    double slowest = 0;
    int64_t start = now_ns();
    for (size_t i = 0; i < job->model_count; i++) {
        struct series warm = {0};
        series_begin(&warm, turns[i], SERIES_NO_BLOCK);
        repeat(&models[turns[i]], &warm, job->warmup_runs, seconds_ns(job->warmup_seconds));
        double median = series_median(&warm);
        if (median > slowest) slowest = median;
        series_clear(&warm);
    }
    tell_phase("warmup", start, now_ns());
    return slowest;
}

static void run_alone(const struct job *job, struct model *model, struct series *series) {
    series_begin(series, 0, SERIES_NO_BLOCK);
    repeat(model, series, job->runs, seconds_ns(job->seconds));
}

/* As many runs a visit as fit the seconds at the slower model's pace, and as make up the runs asked for. */
static void run_in_turns(
    const struct job *job, struct model *models, const size_t *turns, double slowest, struct series *series) {
    const size_t order[VISITS] = {turns[0], turns[1], turns[1], turns[0]};
    double fitting = slowest > 0 ? job->seconds * 1e9 / ((double)VISITS * job->blocks) / slowest + 0.5 : 1;
    int wanted = (job->runs + 2 * job->blocks - 1) / (2 * job->blocks);
    if (fitting > (double)JOB_MAX_RUNS) fitting = (double)JOB_MAX_RUNS;
    int runs = (int)fitting > wanted ? (int)fitting : wanted;
    for (int block = 0; block < job->blocks; block++)
        for (size_t visit = 0; visit < VISITS; visit++) {
            series_begin(series, order[visit], block);
            repeat(&models[order[visit]], series, runs, 0);
        }
}

static void read_job(const char *job_file, struct job *job) {
    static char text[JOB_MAX_BYTES + 2];
    char message[512];
    ssize_t length = file_read(job_file, text, sizeof text - 1);
    if (length < 0) fail(EXIT_BAD_JOB, "%s: %s", job_file, strerror(errno));
    if (!job_read(text, (size_t)length, job, message, sizeof message)) fail(EXIT_BAD_JOB, "%s", message);
}

void measure_run(const char *job_file) {
    static struct model models[JOB_MAX_MODELS];
    struct job job;
    struct series series = {0};
    read_job(job_file, &job);
    const size_t turns[JOB_MAX_MODELS] = {job.swapped ? 1 : 0, job.swapped ? 0 : 1};
    if (job.lock != NULL) take_lock(file_beside(job_file, job.lock));
    sensors_state("before");
    for (size_t i = 0; i < job.model_count; i++) load_model(job_file, &job, turns[i], &models[turns[i]]);
    sampler_start(&job);
    idle(&job);
    double slowest = warm_up(&job, models, turns);
    int64_t peak = memory_of_process("VmHWM"); /* before the run times fill memory of their own */
    int64_t start = now_ns();
    sampler_on();
    if (job.model_count == 1)
        run_alone(&job, &models[0], &series);
    else
        run_in_turns(&job, models, turns, slowest, &series);
    sampler_off();
    tell_phase("active", start, now_ns());
    event_begin("memory");
    tell_bytes("peak_bytes", peak);
    tell_bytes("arena_bytes", job.model_count == 1 ? models[0].arena_bytes : -1);
    event_end();
    series_write(&series);
    sampler_finish();
    sensors_state("after");
    event_begin("end");
    event_end();
}
