#include "job.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "utf8.h"

static const char FIRST_LINE[] = "edgekd-job 1";

/* The keys of a section that were seen, a bit each. */
struct reader {
    struct job *job;
    char *message;
    size_t message_size;
    unsigned line;
    unsigned seen;
};

static bool refuse(const struct reader *reader, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool refuse(const struct reader *reader, const char *format, ...) {
    char reason[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    snprintf(reader->message, reader->message_size, "job line %u: %s", reader->line, reason);
    return false;
}

static bool once(struct reader *reader, unsigned bit, const char *key) {
    if ((reader->seen & (1u << bit)) != 0) return refuse(reader, "%s stands twice", key);
    reader->seen |= 1u << bit;
    return true;
}

/* Digits alone, between least and most. */
static bool whole(const struct reader *reader, const char *key, const char *value, int least, int most, int *found) {
    long number = 0;
    size_t digits = strspn(value, "0123456789");
    if (digits == 0 || digits > 9 || value[digits] != '\0') return refuse(reader, "%s is not a whole number", key);
    for (size_t i = 0; i < digits; i++) number = number * 10 + (value[i] - '0');
    if (number < least || number > most) return refuse(reader, "%s is not from %d to %d", key, least, most);
    *found = (int)number;
    return true;
}

/* Digits, and a point with digits behind it where there is one. */
static bool seconds(const struct reader *reader, const char *key, const char *value, double *found) {
    double number = 0, unit = 1;
    size_t digits = strspn(value, "0123456789"), behind = 0;
    if (value[digits] == '.') behind = strspn(value + digits + 1, "0123456789");
    size_t length = digits + (behind > 0 ? behind + 1 : 0);
    if (digits == 0 || digits > 9 || behind > 9 || value[length] != '\0')
        return refuse(reader, "%s is not a number of seconds", key);
    for (size_t i = 0; i < digits; i++) number = number * 10 + (value[i] - '0');
    for (size_t i = 0; i < behind; i++) number += (value[digits + 1 + i] - '0') * (unit /= 10);
    if (number > (double)JOB_MAX_SECONDS) return refuse(reader, "%s is above %d", key, JOB_MAX_SECONDS);
    *found = number;
    return true;
}

static bool path(const struct reader *reader, const char *key, const char *value, const char **found) {
    if (*value == '\0') return refuse(reader, "%s names nothing", key);
    if (strlen(value) > JOB_MAX_PATH) return refuse(reader, "%s is longer than %d bytes", key, JOB_MAX_PATH);
    *found = value;
    return true;
}

static bool one_more(
    const struct reader *reader, const char *key, const char *value, const char **list, size_t room, size_t *count) {
    if (*count == room) return refuse(reader, "more than %zu lines of %s", room, key);
    if (!path(reader, key, value, &list[*count])) return false;
    (*count)++;
    return true;
}

static bool sensor(const struct reader *reader, const char *key, const char *value) {
    struct job *job = reader->job;
    if (strncmp(value, "/sys/", 5) != 0 || strstr(value, "/../") != NULL)
        return refuse(reader, "%s is no path below /sys", key);
    return one_more(reader, key, value, job->sensors, JOB_MAX_SENSORS, &job->sensor_count);
}

static bool protocol_line(struct reader *reader, const char *key, const char *value) {
    struct job *job = reader->job;
    int swapped = 0;
    if (strcmp(key, "threads") == 0)
        return once(reader, 0, key) && whole(reader, key, value, 1, JOB_MAX_THREADS, &job->threads);
    if (strcmp(key, "warmup_runs") == 0)
        return once(reader, 1, key) && whole(reader, key, value, 0, JOB_MAX_RUNS, &job->warmup_runs);
    if (strcmp(key, "warmup_seconds") == 0)
        return once(reader, 2, key) && seconds(reader, key, value, &job->warmup_seconds);
    if (strcmp(key, "runs") == 0)
        return once(reader, 3, key) && whole(reader, key, value, 1, JOB_MAX_RUNS, &job->runs);
    if (strcmp(key, "seconds") == 0) return once(reader, 4, key) && seconds(reader, key, value, &job->seconds);
    if (strcmp(key, "blocks") == 0)
        return once(reader, 5, key) && whole(reader, key, value, 1, JOB_MAX_BLOCKS, &job->blocks);
    if (strcmp(key, "idle_seconds") == 0)
        return once(reader, 6, key) && seconds(reader, key, value, &job->idle_seconds);
    if (strcmp(key, "sample_ms") == 0)
        return once(reader, 7, key) && whole(reader, key, value, 1, JOB_MAX_SAMPLE_MS, &job->sample_ms);
    if (strcmp(key, "lock") == 0) return once(reader, 8, key) && path(reader, key, value, &job->lock);
    if (strcmp(key, "swapped") == 0) {
        if (!once(reader, 9, key) || !whole(reader, key, value, 0, 1, &swapped)) return false;
        job->swapped = swapped == 1;
        return true;
    }
    if (strcmp(key, "sample") == 0) return sensor(reader, key, value);
    return refuse(reader, "unknown key '%.40s'", key);
}

static bool runtime(const struct reader *reader, const char *value, enum runtime *found) {
    static const struct {
        const char *name;
        enum runtime runtime;
    } known[] = {
        {"ai-edge-litert", RUNTIME_LITERT},
        {"onnxruntime", RUNTIME_ONNXRUNTIME},
        {"openvino", RUNTIME_OPENVINO},
        {"tflite-runtime", RUNTIME_TFLITE_RUNTIME},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(value, known[i].name) == 0) {
            *found = known[i].runtime;
            return true;
        }
    return refuse(reader, "unknown runtime '%.40s'", value);
}

static bool model_line(struct reader *reader, const char *key, const char *value) {
    struct job_model *model = &reader->job->models[reader->job->model_count - 1];
    if (strcmp(key, "runtime") == 0) return once(reader, 0, key) && runtime(reader, value, &model->runtime);
    if (strcmp(key, "library") == 0) return once(reader, 1, key) && path(reader, key, value, &model->library);
    if (strcmp(key, "input") == 0)
        return one_more(reader, key, value, model->inputs, JOB_MAX_FILES, &model->input_count);
    if (strcmp(key, "output") == 0)
        return one_more(reader, key, value, model->outputs, JOB_MAX_FILES, &model->output_count);
    return refuse(reader, "unknown key '%.40s' of a model", key);
}

static bool whole_model(const struct reader *reader) {
    const struct job *job = reader->job;
    if (job->model_count == 0) return true;
    const struct job_model *model = &job->models[job->model_count - 1];
    if (model->runtime == RUNTIME_NONE) return refuse(reader, "a model without a runtime");
    if (model->library == NULL) return refuse(reader, "a model without a library");
    return true;
}

static bool begin_model(struct reader *reader, const char *value) {
    struct job *job = reader->job;
    if (!whole_model(reader)) return false;
    if (job->model_count == JOB_MAX_MODELS) return refuse(reader, "more than %d models", JOB_MAX_MODELS);
    job->model_count++;
    reader->seen = 0;
    return path(reader, "model", value, &job->models[job->model_count - 1].file);
}

static bool job_line(struct reader *reader, char *line) {
    if (reader->line == 1) return strcmp(line, FIRST_LINE) == 0 || refuse(reader, "it is not '%s'", FIRST_LINE);
    char *space = strchr(line, ' ');
    if (space == NULL) return refuse(reader, "a key without a value");
    *space = '\0';
    if (strcmp(line, "model") == 0) return begin_model(reader, space + 1);
    return reader->job->model_count == 0 ? protocol_line(reader, line, space + 1)
                                         : model_line(reader, line, space + 1);
}

static bool readable(const char *text, size_t length, const struct reader *reader) {
    if (length > JOB_MAX_BYTES) return refuse(reader, "the job is longer than %d bytes", JOB_MAX_BYTES);
    for (size_t at = 0, step; at < length; at += step) {
        step = utf8_length((const unsigned char *)text + at, length - at);
        if (step == 0 || text[at] == '\0') return refuse(reader, "byte %zu of the job is not text", at);
    }
    return true;
}

bool job_read(char *text, size_t length, struct job *job, char *message, size_t message_size) {
    struct reader reader = {.job = job, .message = message, .message_size = message_size, .line = 1};
    *job = (struct job){.threads = 1, .warmup_runs = 1, .runs = 1, .blocks = 30, .sample_ms = 100};
    if (!readable(text, length, &reader)) return false;
    text[length] = '\0';
    char *line = text;
    for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1, reader.line++) {
        *end = '\0';
        if (!job_line(&reader, line)) return false;
    }
    if ((*line != '\0' || reader.line == 1) && !job_line(&reader, line)) return false;
    if (job->model_count == 0) return refuse(&reader, "no model");
    if (job->swapped && job->model_count < 2) return refuse(&reader, "swapped is for two models");
    return whole_model(&reader);
}
