/* OpenVINO through its C interface, libopenvino_c.so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "library.h"
#include "model.h"
#include "runtime_error.h"

typedef struct opaque *handle;

enum { OLDEST_YEAR = 2025 }; /* before it, element types were numbered otherwise */

struct shape {
    int64_t rank;
    int64_t *sides;
};

struct range {
    int64_t least, most;
};

struct partial_shape {
    struct range rank;
    struct range *sides;
};

struct version {
    const char *build;
    const char *description;
};

struct functions {
    int (*ov_get_openvino_version)(struct version *version);
    const char *(*ov_get_last_err_msg)(void);
    int (*ov_core_create)(handle *core);
    int (*ov_core_compile_model_from_file)(
        handle core, const char *file, const char *device, size_t strings, handle *compiled, ...);
    int (*ov_compiled_model_create_infer_request)(handle compiled, handle *request);
    int (*ov_compiled_model_inputs_size)(handle compiled, size_t *count);
    int (*ov_compiled_model_outputs_size)(handle compiled, size_t *count);
    int (*ov_compiled_model_input_by_index)(handle compiled, size_t index, handle *port);
    int (*ov_compiled_model_output_by_index)(handle compiled, size_t index, handle *port);
    int (*ov_port_get_any_name)(handle port, char **name);
    int (*ov_port_get_partial_shape)(handle port, struct partial_shape *shape);
    int (*ov_port_get_element_type)(handle port, int *element);
    int (*ov_tensor_create)(int element, struct shape shape, handle *tensor);
    int (*ov_infer_request_set_input_tensor_by_index)(handle request, size_t index, handle tensor);
    int (*ov_infer_request_get_input_tensor_by_index)(handle request, size_t index, handle *tensor);
    int (*ov_infer_request_get_output_tensor_by_index)(handle request, size_t index, handle *tensor);
    int (*ov_tensor_get_shape)(handle tensor, struct shape *shape);
    int (*ov_tensor_get_byte_size)(handle tensor, size_t *bytes);
    int (*ov_tensor_data)(handle tensor, void **bytes);
    int (*ov_infer_request_infer)(handle request);
};

struct openvino {
    struct functions lib;
    handle compiled, request;
    handle inputs[MODEL_MAX_TENSORS], outputs[MODEL_MAX_TENSORS];
};

#define CALL(state, name, ...)                                           \
    do {                                                                 \
        int status_ = (state)->lib.name(__VA_ARGS__);                    \
        if (status_ != 0) failed(state, #name, status_);                 \
    } while (0)

static _Noreturn void failed(const struct openvino *state, const char *call, int status) {
    const char *reason = state->lib.ov_get_last_err_msg();
    if (reason == NULL || *reason == '\0') runtime_failed_with(call, status);
    runtime_failed(call, reason);
}

static const char *dtype(int element) {
    static const char *const names[] = {
        [1] = "bool",   [3] = "float16", [4] = "float32", [5] = "float64", [7] = "int8",    [8] = "int16",
        [9] = "int32",  [10] = "int64",  [16] = "uint8",  [17] = "uint16", [18] = "uint32", [19] = "uint64",
    };
    return element >= 0 && element < (int)(sizeof names / sizeof names[0]) ? names[element] : NULL;
}

static void bind(struct functions *lib, void *library) {
    BIND(library, *lib, ov_get_openvino_version);
    BIND(library, *lib, ov_get_last_err_msg);
    BIND(library, *lib, ov_core_create);
    BIND(library, *lib, ov_core_compile_model_from_file);
    BIND(library, *lib, ov_compiled_model_create_infer_request);
    BIND(library, *lib, ov_compiled_model_inputs_size);
    BIND(library, *lib, ov_compiled_model_outputs_size);
    BIND(library, *lib, ov_compiled_model_input_by_index);
    BIND(library, *lib, ov_compiled_model_output_by_index);
    BIND(library, *lib, ov_port_get_any_name);
    BIND(library, *lib, ov_port_get_partial_shape);
    BIND(library, *lib, ov_port_get_element_type);
    BIND(library, *lib, ov_tensor_create);
    BIND(library, *lib, ov_infer_request_set_input_tensor_by_index);
    BIND(library, *lib, ov_infer_request_get_input_tensor_by_index);
    BIND(library, *lib, ov_infer_request_get_output_tensor_by_index);
    BIND(library, *lib, ov_tensor_get_shape);
    BIND(library, *lib, ov_tensor_get_byte_size);
    BIND(library, *lib, ov_tensor_data);
    BIND(library, *lib, ov_infer_request_infer);
}

static void check_version(struct openvino *state) {
    struct version version = {NULL, NULL};
    CALL(state, ov_get_openvino_version, &version);
    if (version.build == NULL || strtol(version.build, NULL, 10) < OLDEST_YEAR)
        fail(EXIT_FAILED, "OpenVINO %.40s is too old; use %d or newer", version.build, OLDEST_YEAR);
}

/* The shape as the file has it; -1 for a side that it leaves open. */
static void read_port(struct openvino *state, handle port, struct tensor *tensor, int *element, const char *kind) {
    struct partial_shape shape = {{0, 0}, NULL};
    char *name = NULL;
    if (state->lib.ov_port_get_any_name(port, &name) == 0) tensor_name(tensor, name); /* a port may have none */
    CALL(state, ov_port_get_element_type, port, element);
    CALL(state, ov_port_get_partial_shape, port, &shape);
    if (shape.rank.least != shape.rank.most || shape.rank.least > MODEL_MAX_RANK)
        fail(EXIT_FAILED, "%s '%s' has no fixed number of sides", kind, tensor->name);
    tensor->dtype = dtype(*element);
    tensor->rank = (size_t)shape.rank.least;
    for (size_t axis = 0; axis < tensor->rank; axis++)
        tensor->shape[axis] = shape.sides[axis].least == shape.sides[axis].most ? shape.sides[axis].least : -1;
}

static int has_open_side(const struct tensor *tensor) {
    for (size_t axis = 0; axis < tensor->rank; axis++)
        if (tensor->shape[axis] < 0) return 1;
    return 0;
}

static void *bytes_of(struct openvino *state, handle tensor, const struct tensor *known, const char *kind) {
    void *bytes = NULL;
    size_t size = 0;
    CALL(state, ov_tensor_get_byte_size, tensor, &size);
    if (size != known->bytes)
        fail(EXIT_FAILED, "%s '%s' holds %zu bytes, not %zu", kind, known->name, size, known->bytes);
    CALL(state, ov_tensor_data, tensor, &bytes);
    return bytes;
}

static void describe_input(struct model *model, size_t index) {
    struct openvino *state = model->state;
    struct tensor *tensor = &model->inputs[index];
    handle port = NULL;
    int element = 0;
    CALL(state, ov_compiled_model_input_by_index, state->compiled, index, &port);
    read_port(state, port, tensor, &element, "input");
    if (tensor->rank > 0 && tensor->shape[0] < 0) { /* the batch, left open */
        tensor->shape[0] = 1;
        tensor_finish(tensor, "input");
        struct shape shape = {(int64_t)tensor->rank, tensor->shape};
        CALL(state, ov_tensor_create, element, shape, &state->inputs[index]);
        CALL(state, ov_infer_request_set_input_tensor_by_index, state->request, index, state->inputs[index]);
    } else {
        tensor_finish(tensor, "input");
        CALL(state, ov_infer_request_get_input_tensor_by_index, state->request, index, &state->inputs[index]);
    }
    memset(bytes_of(state, state->inputs[index], tensor, "input"), 0, tensor->bytes);
}

static void describe_output(struct model *model, size_t index) {
    struct openvino *state = model->state;
    struct tensor *tensor = &model->outputs[index];
    struct shape shape = {0, NULL};
    CALL(state, ov_infer_request_get_output_tensor_by_index, state->request, index, &state->outputs[index]);
    CALL(state, ov_tensor_get_shape, state->outputs[index], &shape);
    for (size_t axis = 0; axis < tensor->rank && axis < (size_t)shape.rank; axis++)
        tensor->shape[axis] = shape.sides[axis];
    tensor_finish(tensor, "output");
    bytes_of(state, state->outputs[index], tensor, "output");
}

static void run(struct model *model) {
    struct openvino *state = model->state;
    CALL(state, ov_infer_request_infer, state->request);
}

static void describe(struct model *model) {
    struct openvino *state = model->state;
    size_t inputs = 0, outputs = 0;
    int open_side = 0;
    CALL(state, ov_compiled_model_inputs_size, state->compiled, &inputs);
    CALL(state, ov_compiled_model_outputs_size, state->compiled, &outputs);
    model->input_count = tensor_count(inputs, "input");
    model->output_count = tensor_count(outputs, "output");
    for (size_t i = 0; i < inputs; i++) describe_input(model, i);
    for (size_t i = 0; i < outputs; i++) {
        handle port = NULL;
        int element = 0;
        CALL(state, ov_compiled_model_output_by_index, state->compiled, i, &port);
        read_port(state, port, &model->outputs[i], &element, "output");
        open_side |= has_open_side(&model->outputs[i]);
    }
    if (open_side) run(model); /* sides that the file leaves open are known once it has run on zeros */
    for (size_t i = 0; i < outputs; i++) describe_output(model, i);
}

static void set_input(struct model *model, size_t index, const void *bytes) {
    struct openvino *state = model->state;
    const struct tensor *tensor = &model->inputs[index];
    memcpy(bytes_of(state, state->inputs[index], tensor, "input"), bytes, tensor->bytes);
}

static void get_output(struct model *model, size_t index, void *bytes) {
    struct openvino *state = model->state;
    const struct tensor *tensor = &model->outputs[index];
    memcpy(bytes, bytes_of(state, state->outputs[index], tensor, "output"), tensor->bytes);
}

void openvino_load(struct model *model, void *library, const char *file, int threads) {
    struct openvino *state = calloc(1, sizeof *state);
    if (state == NULL) fail(EXIT_FAILED, "out of memory");
    char count[16];
    handle core = NULL;
    bind(&state->lib, library);
    check_version(state);
    *model = (struct model){.arena_bytes = -1, .state = state, .describe = describe, .set_input = set_input,
                            .run = run, .get_output = get_output};
    snprintf(count, sizeof count, "%d", threads);
    CALL(state, ov_core_create, &core);
    CALL(state, ov_core_compile_model_from_file, core, file, "CPU", 6, &state->compiled, "INFERENCE_PRECISION_HINT",
         "f32", "INFERENCE_NUM_THREADS", count, "NUM_STREAMS", "1");
    CALL(state, ov_compiled_model_create_infer_request, state->compiled, &state->request);
}
