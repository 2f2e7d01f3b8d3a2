#include "model.h"

#include <stdio.h>
#include <string.h>

#include "events.h"

static const size_t MAX_TENSOR_BYTES = (size_t)1 << 30;

size_t dtype_size(const char *dtype) {
    static const struct {
        const char *name;
        size_t size;
    } sizes[] = {
        {"bool", 1},    {"int8", 1},    {"uint8", 1},   {"int16", 2},   {"uint16", 2},  {"float16", 2},
        {"int32", 4},   {"uint32", 4},  {"float32", 4}, {"int64", 8},   {"uint64", 8},  {"float64", 8},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (strcmp(dtype, sizes[i].name) == 0) return sizes[i].size;
    return 0;
}

void tensor_finish(struct tensor *tensor, const char *kind) {
    if (tensor->dtype == NULL) fail(EXIT_FAILED, "%s '%s' is of a type that is not supported", kind, tensor->name);
    size_t bytes = dtype_size(tensor->dtype);
    for (size_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] < 0) fail(EXIT_FAILED, "%s '%s' has no fixed shape", kind, tensor->name);
        size_t side = (size_t)tensor->shape[i];
        if (side != 0 && bytes > MAX_TENSOR_BYTES / side)
            fail(EXIT_FAILED, "%s '%s' is larger than %zu bytes", kind, tensor->name, MAX_TENSOR_BYTES);
        bytes *= side;
    }
    tensor->bytes = bytes;
}

void tensor_name(struct tensor *tensor, const char *name) {
    snprintf(tensor->name, sizeof tensor->name, "%s", name == NULL ? "" : name);
}

size_t tensor_count(size_t count, const char *kind) {
    if (count > MODEL_MAX_TENSORS)
        fail(EXIT_FAILED, "the model has %zu %ss, more than %d", count, kind, MODEL_MAX_TENSORS);
    return count;
}
