/* ONNX Runtime through the table of functions that OrtGetApiBase hands out; its places never change. */
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "library.h"
#include "model.h"
#include "runtime_error.h"

typedef struct opaque *handle;

enum { API_VERSION = 17, LOG_FATAL = 4, ALL_OPTIMIZATIONS = 99, SEQUENTIAL = 0, ARENA = 1, DEFAULT_MEMORY = 0 };

enum place {
    GetErrorMessage = 2,
    CreateEnv = 3,
    CreateSession = 7,
    Run = 9,
    CreateSessionOptions = 10,
    SetSessionExecutionMode = 13,
    SetSessionGraphOptimizationLevel = 23,
    SetIntraOpNumThreads = 24,
    SetInterOpNumThreads = 25,
    SessionGetInputCount = 30,
    SessionGetOutputCount = 31,
    SessionGetInputTypeInfo = 33,
    SessionGetOutputTypeInfo = 34,
    SessionGetInputName = 36,
    SessionGetOutputName = 37,
    CreateTensorWithDataAsOrtValue = 49,
    GetTensorMutableData = 51,
    CastTypeInfoToTensorInfo = 55,
    GetTensorElementType = 60,
    GetDimensionsCount = 61,
    GetDimensions = 62,
    GetTensorTypeAndShape = 65,
    CreateCpuMemoryInfo = 69,
    GetAllocatorWithDefaultOptions = 78,
    PLACES = 79,
};

typedef void (*function)(void);

struct api_base {
    const function *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
};

struct onnxruntime {
    const function *api;
    handle session, allocator, memory;
    char *input_names[MODEL_MAX_TENSORS], *output_names[MODEL_MAX_TENSORS];
    handle input_values[MODEL_MAX_TENSORS], output_values[MODEL_MAX_TENSORS];
    void *input_bytes[MODEL_MAX_TENSORS], *output_bytes[MODEL_MAX_TENSORS];
};

typedef handle (*run_function)(
    handle session, handle options, char *const *input_names, handle const *inputs, size_t input_count,
    char *const *output_names, size_t output_count, handle *outputs);

/* Calls what stands at a place of the table, with the types of its parameters. */
#define CALL(state, name, types, ...) check(state, ((handle(*) types)(state)->api[name])(__VA_ARGS__), #name)

static void check(const struct onnxruntime *state, handle status, const char *call) {
    if (status == NULL) return;
    runtime_failed(call, ((const char *(*)(handle))state->api[GetErrorMessage])(status));
}

static const char *dtype(int element) {
    static const char *const names[] = {
        [1] = "float32", [2] = "uint8", [3] = "int8", [4] = "uint16", [5] = "int16", [6] = "int32", [7] = "int64",
        [9] = "bool", [10] = "float16", [11] = "float64", [12] = "uint32", [13] = "uint64",
    };
    return element >= 0 && element < (int)(sizeof names / sizeof names[0]) ? names[element] : NULL;
}

static void read_shape(struct onnxruntime *state, handle info, struct tensor *tensor, const char *kind) {
    int element = 0;
    CALL(state, GetTensorElementType, (handle, int *), info, &element);
    CALL(state, GetDimensionsCount, (handle, size_t *), info, &tensor->rank);
    if (tensor->rank > MODEL_MAX_RANK) fail(EXIT_FAILED, "%s '%s' has too many sides", kind, tensor->name);
    CALL(state, GetDimensions, (handle, int64_t *, size_t), info, tensor->shape, tensor->rank);
    tensor->dtype = dtype(element);
}

static void read_tensor(struct onnxruntime *state, size_t index, struct tensor *tensor, char **name, int output) {
    handle type = NULL, info = NULL;
    if (output) {
        CALL(state, SessionGetOutputName, (handle, size_t, handle, char **), state->session, index, state->allocator,
             name);
        CALL(state, SessionGetOutputTypeInfo, (handle, size_t, handle *), state->session, index, &type);
    } else {
        CALL(state, SessionGetInputName, (handle, size_t, handle, char **), state->session, index, state->allocator,
             name);
        CALL(state, SessionGetInputTypeInfo, (handle, size_t, handle *), state->session, index, &type);
    }
    tensor_name(tensor, *name);
    CALL(state, CastTypeInfoToTensorInfo, (handle, handle *), type, &info);
    if (info == NULL) fail(EXIT_FAILED, "%s '%s' is no tensor", output ? "output" : "input", tensor->name);
    read_shape(state, info, tensor, output ? "output" : "input");
    if (tensor->rank > 0 && tensor->shape[0] < 0) tensor->shape[0] = 1; /* the batch, left open */
}

static handle value_over(struct onnxruntime *state, const struct tensor *tensor, void **bytes) {
    static const struct {
        const char *name;
        int element;
    } elements[] = {
        {"float32", 1}, {"uint8", 2}, {"int8", 3},     {"uint16", 4},   {"int16", 5},   {"int32", 6},
        {"int64", 7},   {"bool", 9},  {"float16", 10}, {"float64", 11}, {"uint32", 12}, {"uint64", 13},
    };
    handle value = NULL;
    int element = 0;
    for (size_t i = 0; i < sizeof elements / sizeof elements[0]; i++)
        if (strcmp(tensor->dtype, elements[i].name) == 0) element = elements[i].element;
    size_t room = (tensor->bytes + 64) / 64 * 64;
    *bytes = aligned_alloc(64, room);
    if (*bytes == NULL) fail(EXIT_FAILED, "out of memory");
    memset(*bytes, 0, room);
    CALL(state, CreateTensorWithDataAsOrtValue, (handle, void *, size_t, const int64_t *, size_t, int, handle *),
         state->memory, *bytes, tensor->bytes, tensor->shape, tensor->rank, element, &value);
    return value;
}

static void run(struct model *model) {
    struct onnxruntime *state = model->state;
    handle status = ((run_function)state->api[Run])(
        state->session, NULL, state->input_names, state->input_values, model->input_count, state->output_names,
        model->output_count, state->output_values);
    check(state, status, "Run");
}

/* Sides that the file leaves open are known once the model has run on zeros. */
static void find_output_shapes(struct model *model) {
    struct onnxruntime *state = model->state;
    run(model);
    for (size_t i = 0; i < model->output_count; i++) {
        handle info = NULL;
        CALL(state, GetTensorTypeAndShape, (handle, handle *), state->output_values[i], &info);
        read_shape(state, info, &model->outputs[i], "output");
        state->output_values[i] = NULL;
    }
}

static void describe(struct model *model) {
    struct onnxruntime *state = model->state;
    size_t inputs = 0, outputs = 0;
    int open_side = 0;
    CALL(state, GetAllocatorWithDefaultOptions, (handle *), &state->allocator);
    CALL(state, CreateCpuMemoryInfo, (int, int, handle *), ARENA, DEFAULT_MEMORY, &state->memory);
    CALL(state, SessionGetInputCount, (handle, size_t *), state->session, &inputs);
    CALL(state, SessionGetOutputCount, (handle, size_t *), state->session, &outputs);
    model->input_count = tensor_count(inputs, "input");
    model->output_count = tensor_count(outputs, "output");
    for (size_t i = 0; i < inputs; i++) {
        read_tensor(state, i, &model->inputs[i], &state->input_names[i], 0);
        tensor_finish(&model->inputs[i], "input");
        state->input_values[i] = value_over(state, &model->inputs[i], &state->input_bytes[i]);
    }
    for (size_t i = 0; i < outputs; i++) {
        read_tensor(state, i, &model->outputs[i], &state->output_names[i], 1);
        for (size_t axis = 0; axis < model->outputs[i].rank; axis++) open_side |= model->outputs[i].shape[axis] < 0;
    }
    if (open_side) find_output_shapes(model);
    for (size_t i = 0; i < outputs; i++) {
        tensor_finish(&model->outputs[i], "output");
        state->output_values[i] = value_over(state, &model->outputs[i], &state->output_bytes[i]);
    }
}

static void set_input(struct model *model, size_t index, const void *bytes) {
    struct onnxruntime *state = model->state;
    memcpy(state->input_bytes[index], bytes, model->inputs[index].bytes);
}

static void get_output(struct model *model, size_t index, void *bytes) {
    struct onnxruntime *state = model->state;
    memcpy(bytes, state->output_bytes[index], model->outputs[index].bytes);
}

void onnxruntime_load(struct model *model, void *library, const char *file, int threads) {
    struct onnxruntime *state = calloc(1, sizeof *state);
    if (state == NULL) fail(EXIT_FAILED, "out of memory");
    struct {
        const struct api_base *(*OrtGetApiBase)(void);
    } lib;
    handle environment = NULL, options = NULL;
    BIND(library, lib, OrtGetApiBase);
    const struct api_base *base = lib.OrtGetApiBase();
    state->api = base->GetApi(API_VERSION);
    if (state->api == NULL)
        fail(EXIT_FAILED, "onnxruntime %s does not offer version %d of its API", base->GetVersionString(), API_VERSION);
    *model = (struct model){.arena_bytes = -1, .state = state, .describe = describe, .set_input = set_input,
                            .run = run, .get_output = get_output};
    CALL(state, CreateEnv, (int, const char *, handle *), LOG_FATAL, "edgekd", &environment);
    CALL(state, CreateSessionOptions, (handle *), &options);
    CALL(state, SetSessionExecutionMode, (handle, int), options, SEQUENTIAL);
    CALL(state, SetSessionGraphOptimizationLevel, (handle, int), options, ALL_OPTIMIZATIONS);
    CALL(state, SetIntraOpNumThreads, (handle, int), options, threads);
    CALL(state, SetInterOpNumThreads, (handle, int), options, 1);
    CALL(state, CreateSession, (handle, const char *, handle, handle *), environment, file, options, &state->session);
}
