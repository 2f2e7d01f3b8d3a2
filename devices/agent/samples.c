#include "samples.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "events.h"
#include "files.h"
#include "noise.h"

static void *room(size_t bytes) {
    void *place = malloc(bytes == 0 ? 1 : bytes);
    if (place == NULL) fail(EXIT_FAILED, "out of memory");
    return place;
}

/* The file of an input and how many samples it holds. */
static int open_input(const char *path, const struct tensor *tensor, size_t *samples) {
    struct stat about;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 || fstat(file, &about) != 0) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
    size_t size = (size_t)about.st_size;
    if (!S_ISREG(about.st_mode) || size == 0 || tensor->bytes == 0 || size % tensor->bytes != 0)
        fail(EXIT_BAD_JOB, "%s: its %zu bytes are no samples of %zu bytes each", path, size, tensor->bytes);
    *samples = size / tensor->bytes;
    return file;
}

static void read_sample(int file, size_t sample, const struct tensor *tensor, void *bytes) {
    size_t done = 0;
    off_t begin = (off_t)sample * (off_t)tensor->bytes;
    while (done < tensor->bytes) {
        ssize_t got = pread(file, (char *)bytes + done, tensor->bytes - done, begin + (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) fail(EXIT_FAILED, "input '%s' cannot be read to its end", tensor->name);
        done += (size_t)got;
    }
}

static void write_all(int file, const char *path, const void *bytes, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t put = write(file, (const char *)bytes + done, size - done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
        done += (size_t)put;
    }
}

void samples_run(const char *job_file, const struct job_model *order, struct model *model, size_t position) {
    int inputs[MODEL_MAX_TENSORS], outputs[MODEL_MAX_TENSORS];
    char *output_paths[MODEL_MAX_TENSORS];
    void *input_bytes[MODEL_MAX_TENSORS], *output_bytes[MODEL_MAX_TENSORS];
    size_t samples = 1;
    if (order->input_count != 0 && order->input_count != model->input_count)
        fail(EXIT_BAD_JOB, "the job has %zu inputs, the model %zu", order->input_count, model->input_count);
    if (order->output_count != 0 && order->output_count != model->output_count)
        fail(EXIT_BAD_JOB, "the job has %zu outputs, the model %zu", order->output_count, model->output_count);
    for (size_t i = 0; i < model->input_count; i++) {
        input_bytes[i] = room(model->inputs[i].bytes);
        if (order->input_count == 0) {
            noise_fill(&model->inputs[i], input_bytes[i]);
            model->set_input(model, i, input_bytes[i]);
            continue;
        }
        size_t found = 0;
        inputs[i] = open_input(file_beside(job_file, order->inputs[i]), &model->inputs[i], &found);
        if (i > 0 && found != samples)
            fail(EXIT_BAD_JOB, "input 0 has %zu samples, input %zu has %zu", samples, i, found);
        samples = found;
    }
    for (size_t i = 0; i < order->output_count; i++) {
        output_paths[i] = file_beside(job_file, order->outputs[i]);
        outputs[i] = open(output_paths[i], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (outputs[i] < 0) fail(EXIT_FAILED, "%s: %s", output_paths[i], strerror(errno));
        output_bytes[i] = room(model->outputs[i].bytes);
    }
    if (order->output_count == 0) samples = 0;
    for (size_t sample = 0; sample < samples; sample++) {
        for (size_t i = 0; i < order->input_count; i++) {
            read_sample(inputs[i], sample, &model->inputs[i], input_bytes[i]);
            model->set_input(model, i, input_bytes[i]);
        }
        model->run(model);
        for (size_t i = 0; i < order->output_count; i++) {
            model->get_output(model, i, output_bytes[i]);
            write_all(outputs[i], output_paths[i], output_bytes[i], model->outputs[i].bytes);
        }
    }
    for (size_t i = 0; i < order->output_count; i++) {
        if (close(outputs[i]) != 0) fail(EXIT_FAILED, "%s: %s", output_paths[i], strerror(errno));
        free(output_paths[i]);
        free(output_bytes[i]);
    }
    for (size_t i = 0; i < model->input_count; i++) {
        if (order->input_count != 0) {
            read_sample(inputs[i], 0, &model->inputs[i], input_bytes[i]);
            model->set_input(model, i, input_bytes[i]);
            close(inputs[i]);
        }
        free(input_bytes[i]);
    }
    event_begin("outputs");
    event_integer("model", (int64_t)position);
    event_integer("samples", (int64_t)samples);
    event_end();
}
