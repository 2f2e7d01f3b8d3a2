/* What a run is to do, as read from a job file. Nothing in it is trusted. */
#ifndef JOB_H
#define JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    JOB_MAX_BYTES = 65536,
    JOB_MAX_PATH = 4095,
    JOB_MAX_MODELS = 2,
    JOB_MAX_FILES = 16, /* inputs or outputs of a model */
    JOB_MAX_SENSORS = 16,
    JOB_MAX_THREADS = 64,
    JOB_MAX_RUNS = 1 << 26, /* as RUNS_LIMIT in edgekd/runners/events.py */
    JOB_MAX_BLOCKS = 10000,
    JOB_MAX_SAMPLE_MS = 60000,
    JOB_MAX_SECONDS = 86400,
};

enum runtime { RUNTIME_NONE, RUNTIME_LITERT, RUNTIME_ONNXRUNTIME, RUNTIME_OPENVINO, RUNTIME_TFLITE_RUNTIME };

/* Strings point into the text that was read. */
struct job_model {
    const char *file;
    const char *library;
    const char *inputs[JOB_MAX_FILES];
    const char *outputs[JOB_MAX_FILES];
    size_t input_count;
    size_t output_count;
    enum runtime runtime;
};

struct job {
    int threads;
    int warmup_runs;
    int runs;
    int blocks;
    int sample_ms;
    bool swapped;
    double warmup_seconds;
    double seconds;
    double idle_seconds;
    const char *lock; /* or NULL */
    const char *sensors[JOB_MAX_SENSORS];
    size_t sensor_count;
    struct job_model models[JOB_MAX_MODELS];
    size_t model_count;
};

/* Reads `length` bytes; text[length] must be writable and is set to NUL, as the end of each line is.
 * Returns false and one line in `message` if it is not a job. */
bool job_read(char *text, size_t length, struct job *job, char *message, size_t message_size);

#endif
