/* LiteRT through the C interface of libLiteRt.so (ai-edge-litert 2.x). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "library.h"
#include "model.h"
#include "runtime_error.h"

typedef struct opaque *handle;

enum { CPU = 1, READ = 0, WRITE = 1, RANK_BITS = 0x7F };

/* LiteRtRankedTensorType: the rank shares its word with a flag for strides. */
struct ranked_type {
    int32_t element;
    uint32_t rank_and_flag;
    int32_t sides[8];
    uint32_t strides[8];
};
_Static_assert(sizeof(struct ranked_type) == 72, "LiteRT's ABI");

struct functions {
    int (*LiteRtCreateEnvironment)(int options, const void *option, handle *environment);
    int (*LiteRtCreateModelFromFile)(handle environment, const char *file, handle *model);
    int (*LiteRtCreateOptions)(handle *options);
    int (*LiteRtSetOptionsHardwareAccelerators)(handle options, int accelerators);
    int (*LiteRtCreateOpaqueOptions)(const char *name, void *text, void (*release)(void *), handle *options);
    int (*LiteRtAddOpaqueOptions)(handle options, handle opaque);
    int (*LiteRtCreateCompiledModel)(handle environment, handle model, handle options, handle *compiled);
    int (*LiteRtGetModelSignature)(handle model, size_t index, handle *signature);
    int (*LiteRtGetSignatureSubgraph)(handle signature, handle *subgraph);
    int (*LiteRtGetNumSubgraphInputs)(handle subgraph, size_t *count);
    int (*LiteRtGetNumSubgraphOutputs)(handle subgraph, size_t *count);
    int (*LiteRtGetSubgraphInput)(handle subgraph, size_t index, handle *tensor);
    int (*LiteRtGetSubgraphOutput)(handle subgraph, size_t index, handle *tensor);
    int (*LiteRtGetNumSignatureInputs)(handle signature, size_t *count);
    int (*LiteRtGetNumSignatureOutputs)(handle signature, size_t *count);
    int (*LiteRtGetSignatureInputTensorByIndex)(handle signature, size_t index, handle *tensor);
    int (*LiteRtGetSignatureOutputTensorByIndex)(handle signature, size_t index, handle *tensor);
    int (*LiteRtGetTensorName)(handle tensor, const char **name);
    int (*LiteRtGetRankedTensorType)(handle tensor, struct ranked_type *type);
    int (*LiteRtGetCompiledModelInputBufferRequirements)(
        handle compiled, size_t signature, size_t index, handle *needs);
    int (*LiteRtGetCompiledModelOutputBufferRequirements)(
        handle compiled, size_t signature, size_t index, handle *needs);
    int (*LiteRtCreateManagedTensorBufferFromRequirements)(
        handle environment, const struct ranked_type *type, handle needs, handle *buffer);
    int (*LiteRtGetTensorBufferPackedSize)(handle buffer, size_t *size);
    int (*LiteRtLockTensorBuffer)(handle buffer, void **bytes, int mode);
    int (*LiteRtUnlockTensorBuffer)(handle buffer);
    int (*LiteRtRunCompiledModel)(
        handle compiled, size_t signature, size_t inputs, handle *input, size_t outputs, handle *output);
};

/* Buffers stand in the signature's order, tensors in the file's; `slot` leads from the second to the first. */
struct side {
    handle buffers[MODEL_MAX_TENSORS];
    size_t slot[MODEL_MAX_TENSORS];
    size_t count;
};

struct litert {
    struct functions lib;
    handle environment, model, compiled, signature, subgraph;
    struct side inputs, outputs;
};

#define CALL(state, name, ...)                                  \
    do {                                                        \
        int status_ = (state)->lib.name(__VA_ARGS__);           \
        if (status_ != 0) runtime_failed_with(#name, status_);  \
    } while (0)

static const char *dtype(int32_t element) {
    static const char *const names[] = {
        [1] = "float32", [2] = "int32", [3] = "uint8", [4] = "int64", [6] = "bool", [7] = "int16", [9] = "int8",
        [10] = "float16", [11] = "float64", [13] = "uint64", [16] = "uint32", [17] = "uint16",
    };
    return element >= 0 && element < (int32_t)(sizeof names / sizeof names[0]) ? names[element] : NULL;
}

static void bind(struct functions *lib, void *library) {
    /* It came with 2.2, and so did the environment as the first parameter of what makes a model. */
    if (!library_has(library, "kLiteRtRuntimeBuiltin"))
        fail(EXIT_FAILED, "the runtime's library is no libLiteRt.so of version 2.2 or newer");
    BIND(library, *lib, LiteRtCreateEnvironment);
    BIND(library, *lib, LiteRtCreateModelFromFile);
    BIND(library, *lib, LiteRtCreateOptions);
    BIND(library, *lib, LiteRtSetOptionsHardwareAccelerators);
    BIND(library, *lib, LiteRtCreateOpaqueOptions);
    BIND(library, *lib, LiteRtAddOpaqueOptions);
    BIND(library, *lib, LiteRtCreateCompiledModel);
    BIND(library, *lib, LiteRtGetModelSignature);
    BIND(library, *lib, LiteRtGetSignatureSubgraph);
    BIND(library, *lib, LiteRtGetNumSubgraphInputs);
    BIND(library, *lib, LiteRtGetNumSubgraphOutputs);
    BIND(library, *lib, LiteRtGetSubgraphInput);
    BIND(library, *lib, LiteRtGetSubgraphOutput);
    BIND(library, *lib, LiteRtGetNumSignatureInputs);
    BIND(library, *lib, LiteRtGetNumSignatureOutputs);
    BIND(library, *lib, LiteRtGetSignatureInputTensorByIndex);
    BIND(library, *lib, LiteRtGetSignatureOutputTensorByIndex);
    BIND(library, *lib, LiteRtGetTensorName);
    BIND(library, *lib, LiteRtGetRankedTensorType);
    BIND(library, *lib, LiteRtGetCompiledModelInputBufferRequirements);
    BIND(library, *lib, LiteRtGetCompiledModelOutputBufferRequirements);
    BIND(library, *lib, LiteRtCreateManagedTensorBufferFromRequirements);
    BIND(library, *lib, LiteRtGetTensorBufferPackedSize);
    BIND(library, *lib, LiteRtLockTensorBuffer);
    BIND(library, *lib, LiteRtUnlockTensorBuffer);
    BIND(library, *lib, LiteRtRunCompiledModel);
}

/* The CPU's options travel as a line of TOML under the name of its delegate. */
static void set_threads(struct litert *state, handle options, int threads) {
    char text[32];
    snprintf(text, sizeof text, "num_threads = %d\n", threads);
    handle opaque = NULL;
    CALL(state, LiteRtCreateOpaqueOptions, "xnnpack", strdup(text), free, &opaque);
    CALL(state, LiteRtAddOpaqueOptions, options, opaque);
}

static void describe_side(struct model *model, struct side *side, struct tensor *tensors, int output) {
    struct litert *state = model->state;
    const char *kind = output ? "output" : "input";
    handle in_signature[MODEL_MAX_TENSORS] = {NULL};
    size_t count = 0, in_file = 0;
    if (output) {
        CALL(state, LiteRtGetNumSignatureOutputs, state->signature, &count);
        CALL(state, LiteRtGetNumSubgraphOutputs, state->subgraph, &in_file);
    } else {
        CALL(state, LiteRtGetNumSignatureInputs, state->signature, &count);
        CALL(state, LiteRtGetNumSubgraphInputs, state->subgraph, &in_file);
    }
    side->count = tensor_count(count, kind);
    if (in_file != count) fail(EXIT_FAILED, "the model's signature has %zu %ss, its graph %zu", count, kind, in_file);
    for (size_t i = 0; i < count; i++) {
        if (output)
            CALL(state, LiteRtGetSignatureOutputTensorByIndex, state->signature, i, &in_signature[i]);
        else
            CALL(state, LiteRtGetSignatureInputTensorByIndex, state->signature, i, &in_signature[i]);
    }
    for (size_t i = 0; i < count; i++) {
        struct ranked_type type = {0};
        struct tensor *tensor = &tensors[i];
        const char *name = NULL;
        handle found = NULL, needs = NULL;
        if (output)
            CALL(state, LiteRtGetSubgraphOutput, state->subgraph, i, &found);
        else
            CALL(state, LiteRtGetSubgraphInput, state->subgraph, i, &found);
        size_t slot = 0;
        while (slot < count && in_signature[slot] != found) slot++;
        if (slot == count) fail(EXIT_FAILED, "%s %zu of the model is not in its signature", kind, i);
        side->slot[i] = slot;
        CALL(state, LiteRtGetTensorName, found, &name);
        tensor_name(tensor, name);
        CALL(state, LiteRtGetRankedTensorType, found, &type);
        tensor->dtype = dtype(type.element);
        tensor->rank = type.rank_and_flag & RANK_BITS;
        if (tensor->rank > MODEL_MAX_RANK) fail(EXIT_FAILED, "%s '%s' has too many sides", kind, tensor->name);
        for (size_t axis = 0; axis < tensor->rank; axis++) tensor->shape[axis] = type.sides[axis];
        tensor_finish(tensor, kind);
        if (output)
            CALL(state, LiteRtGetCompiledModelOutputBufferRequirements, state->compiled, 0, slot, &needs);
        else
            CALL(state, LiteRtGetCompiledModelInputBufferRequirements, state->compiled, 0, slot, &needs);
        CALL(state, LiteRtCreateManagedTensorBufferFromRequirements, state->environment, &type, needs,
             &side->buffers[slot]);
        size_t packed = 0;
        CALL(state, LiteRtGetTensorBufferPackedSize, side->buffers[slot], &packed);
        if (packed != tensor->bytes)
            fail(EXIT_FAILED, "%s '%s' holds %zu bytes, not %zu", kind, tensor->name, packed, tensor->bytes);
    }
}

static void describe(struct model *model) {
    struct litert *state = model->state;
    CALL(state, LiteRtGetModelSignature, state->model, 0, &state->signature);
    CALL(state, LiteRtGetSignatureSubgraph, state->signature, &state->subgraph);
    describe_side(model, &state->inputs, model->inputs, 0);
    describe_side(model, &state->outputs, model->outputs, 1);
    model->input_count = state->inputs.count;
    model->output_count = state->outputs.count;
}

static void set_input(struct model *model, size_t index, const void *bytes) {
    struct litert *state = model->state;
    handle buffer = state->inputs.buffers[state->inputs.slot[index]];
    void *place = NULL;
    CALL(state, LiteRtLockTensorBuffer, buffer, &place, WRITE);
    memcpy(place, bytes, model->inputs[index].bytes);
    CALL(state, LiteRtUnlockTensorBuffer, buffer);
}

static void run(struct model *model) {
    struct litert *state = model->state;
    CALL(state, LiteRtRunCompiledModel, state->compiled, 0, state->inputs.count, state->inputs.buffers,
         state->outputs.count, state->outputs.buffers);
}

static void get_output(struct model *model, size_t index, void *bytes) {
    struct litert *state = model->state;
    handle buffer = state->outputs.buffers[state->outputs.slot[index]];
    void *place = NULL;
    CALL(state, LiteRtLockTensorBuffer, buffer, &place, READ);
    memcpy(bytes, place, model->outputs[index].bytes);
    CALL(state, LiteRtUnlockTensorBuffer, buffer);
}

void litert_load(struct model *model, void *library, const char *file, int threads) {
    struct litert *state = calloc(1, sizeof *state);
    if (state == NULL) fail(EXIT_FAILED, "out of memory");
    handle options = NULL;
    bind(&state->lib, library);
    *model = (struct model){.arena_bytes = -1, .state = state, .describe = describe, .set_input = set_input,
                            .run = run, .get_output = get_output};
    CALL(state, LiteRtCreateEnvironment, 0, NULL, &state->environment);
    CALL(state, LiteRtCreateModelFromFile, state->environment, file, &state->model);
    CALL(state, LiteRtCreateOptions, &options);
    CALL(state, LiteRtSetOptionsHardwareAccelerators, options, CPU);
    set_threads(state, options, threads);
    CALL(state, LiteRtCreateCompiledModel, state->environment, state->model, options, &state->compiled);
}
