/* tflite-runtime 2.14, the last with a library for 32-bit ARM: TensorFlow Lite's C++ behind an extension of Python.
 *
 * Its classes are made in room that is larger than they are, and their members are called by their linker names. Of its
 * structures only those of the C interface are looked into: a delegate that takes nothing is handed the context, and
 * the context has the tensors.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "events.h"
#include "library.h"
#include "model.h"
#include "runtime_error.h"
#include "tflite_file.h"

typedef struct opaque *handle;

enum { ALLOW_DYNAMIC_TENSORS = 1, IN_ARENA = 2, ROOM = 4096 };

struct int_array {
    int size;
    int values[];
};

struct tf_tensor {
    int type;
    void *bytes;
    struct int_array *sides;
    struct {
        float scale;
        int32_t zero_point;
    } params;
    int allocation_type;
    size_t size;
    const void *allocation;
    const char *name;
    handle delegate;
    int buffer_handle;
    bool stale, variable;
    struct {
        int type;
        void *params;
    } quantization;
    handle sparsity;
    const struct int_array *signature;
};

struct context {
    size_t tensor_count;
    int (*GetExecutionPlan)(struct context *context, struct int_array **plan);
    struct tf_tensor *tensors;
};

struct delegate {
    void *data;
    int (*Prepare)(struct context *context, struct delegate *delegate);
    void *copy_from, *copy_to, *release;
    int64_t flags;
    void *builder;
};

/* A std::unique_ptr comes back through memory, as a structure does that fits no register. */
struct returned {
    handle pointer;
    char room[120];
};

struct functions {
    handle (*default_error_reporter)(void);
    struct returned (*build_model)(const char *file, handle verifier, handle reporter);
    void (*make_resolver)(void *resolver);
    void (*make_builder)(void *builder, handle model, void *resolver, handle options);
    int (*set_threads)(void *builder, int threads);
    int (*build)(void *builder, handle *interpreter);
    int (*add_delegate)(handle interpreter, struct delegate *delegate);
    int (*allocate)(handle interpreter);
    int (*invoke)(handle interpreter);
};

struct tflite {
    struct functions lib;
    handle interpreter;
    struct context *context;
    struct delegate delegate;
    struct tflite_ends ends;
    alignas(64) char resolver[ROOM];
    alignas(64) char builder[ROOM];
};

static const char *dtype(int type) {
    static const char *const names[] = {
        [1] = "float32", [2] = "int32", [3] = "uint8", [4] = "int64", [6] = "bool", [7] = "int16", [9] = "int8",
        [10] = "float16", [11] = "float64", [13] = "uint64", [16] = "uint32", [17] = "uint16",
    };
    return type >= 0 && type < (int)(sizeof names / sizeof names[0]) ? names[type] : NULL;
}

static void check(int status, const char *call) {
    if (status != 0) runtime_failed_with(call, status);
}

static void bind(struct functions *lib, void *library) {
#define FIND(member, name) library_bind(library, name, &lib->member, sizeof lib->member)
    FIND(default_error_reporter, "_ZN6tflite20DefaultErrorReporterEv");
    FIND(build_model,
         "_ZN6tflite4impl15FlatBufferModel22VerifyAndBuildFromFileEPKcPNS_14TfLiteVerifierEPNS_13ErrorReporterE");
    FIND(make_resolver, "_ZN6tflite3ops7builtin17BuiltinOpResolverC1Ev");
    FIND(make_builder,
         "_ZN6tflite4impl18InterpreterBuilderC1ERKNS0_15FlatBufferModelERKNS_10OpResolverEPKNS_18InterpreterOptionsE");
    FIND(set_threads, "_ZN6tflite4impl18InterpreterBuilder13SetNumThreadsEi");
    FIND(build, "_ZN6tflite4impl18InterpreterBuilderclEPSt10unique_ptrINS0_11InterpreterESt14default_deleteIS3_EE");
    FIND(add_delegate, "_ZN6tflite4impl11Interpreter23ModifyGraphWithDelegateEP14TfLiteDelegate");
    FIND(allocate, "_ZN6tflite4impl11Interpreter15AllocateTensorsEv");
    FIND(invoke, "_ZN6tflite4impl11Interpreter6InvokeEv");
#undef FIND
}

/* The file's own order of inputs and outputs. */
static void read_ends(const char *file, struct tflite_ends *ends) {
    struct stat about;
    int opened = open(file, O_RDONLY | O_CLOEXEC);
    if (opened < 0 || fstat(opened, &about) != 0) fail(EXIT_FAILED, "%s: %s", file, strerror(errno));
    size_t size = (size_t)about.st_size;
    void *bytes = size == 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_PRIVATE, opened, 0);
    close(opened);
    if (bytes == MAP_FAILED || !tflite_ends(bytes, size, ends)) fail(EXIT_FAILED, "%s is not a TFLite model", file);
    munmap(bytes, size);
}

static int take_context(struct context *context, struct delegate *delegate) {
    struct tflite *state = delegate->data;
    state->context = context;
    return 0;
}

static struct tf_tensor *tensor_at(const struct tflite *state, int32_t place, const char *kind) {
    if (place < 0 || (size_t)place >= state->context->tensor_count)
        fail(EXIT_FAILED, "the model has no tensor %d, an %s", place, kind);
    return &state->context->tensors[place];
}

static void describe_end(const struct tflite *state, int32_t place, struct tensor *tensor, const char *kind) {
    const struct tf_tensor *found = tensor_at(state, place, kind);
    tensor_name(tensor, found->name);
    tensor->dtype = dtype(found->type);
    tensor->rank = found->sides == NULL ? 0 : (size_t)found->sides->size;
    if (tensor->rank > MODEL_MAX_RANK) fail(EXIT_FAILED, "%s '%s' has too many sides", kind, tensor->name);
    for (size_t axis = 0; axis < tensor->rank; axis++) tensor->shape[axis] = found->sides->values[axis];
    tensor_finish(tensor, kind);
    if (found->size != tensor->bytes || found->bytes == NULL)
        fail(EXIT_FAILED, "%s '%s' holds %zu bytes, not %zu", kind, tensor->name, found->size, tensor->bytes);
}

/* From the first to the last byte of the tensors that share the interpreter's memory. */
static int64_t arena_bytes(const struct context *context) {
    uintptr_t first = UINTPTR_MAX, last = 0;
    for (size_t i = 0; i < context->tensor_count; i++) {
        const struct tf_tensor *tensor = &context->tensors[i];
        uintptr_t begin = (uintptr_t)tensor->bytes;
        if (tensor->allocation_type != IN_ARENA || tensor->bytes == NULL) continue;
        if (begin < first) first = begin;
        if (begin + tensor->size > last) last = begin + tensor->size;
    }
    return last > first ? (int64_t)(last - first) : 0;
}

static void describe(struct model *model) {
    const struct tflite *state = model->state;
    model->arena_bytes = arena_bytes(state->context);
    model->input_count = state->ends.input_count;
    model->output_count = state->ends.output_count;
    for (size_t i = 0; i < model->input_count; i++)
        describe_end(state, state->ends.inputs[i], &model->inputs[i], "input");
    for (size_t i = 0; i < model->output_count; i++)
        describe_end(state, state->ends.outputs[i], &model->outputs[i], "output");
}

static void set_input(struct model *model, size_t index, const void *bytes) {
    const struct tflite *state = model->state;
    memcpy(tensor_at(state, state->ends.inputs[index], "input")->bytes, bytes, model->inputs[index].bytes);
}

static void run(struct model *model) {
    const struct tflite *state = model->state;
    check(state->lib.invoke(state->interpreter), "Interpreter::Invoke");
}

static void get_output(struct model *model, size_t index, void *bytes) {
    const struct tflite *state = model->state;
    const struct tf_tensor *found = tensor_at(state, state->ends.outputs[index], "output");
    if (found->size != model->outputs[index].bytes)
        fail(EXIT_FAILED, "output '%s' changed its size", model->outputs[index].name);
    memcpy(bytes, found->bytes, found->size);
}

void tflite_runtime_load(struct model *model, void *library, const char *file, int threads) {
    struct tflite *state = aligned_alloc(alignof(struct tflite), sizeof *state);
    if (state == NULL) fail(EXIT_FAILED, "out of memory");
    memset(state, 0, sizeof *state);
    bind(&state->lib, library);
    *model = (struct model){.arena_bytes = -1, .state = state, .describe = describe, .set_input = set_input,
                            .run = run, .get_output = get_output};
    read_ends(file, &state->ends);
    handle loaded = state->lib.build_model(file, NULL, state->lib.default_error_reporter()).pointer;
    if (loaded == NULL) runtime_failed("FlatBufferModel::VerifyAndBuildFromFile", "it is not a TFLite model");
    state->lib.make_resolver(state->resolver);
    state->lib.make_builder(state->builder, loaded, state->resolver, NULL);
    check(state->lib.set_threads(state->builder, threads), "InterpreterBuilder::SetNumThreads");
    check(state->lib.build(state->builder, &state->interpreter), "InterpreterBuilder");
    if (state->interpreter == NULL) runtime_failed("InterpreterBuilder", "no interpreter");
    state->delegate = (struct delegate){.data = state, .Prepare = take_context, .flags = ALLOW_DYNAMIC_TENSORS};
    check(state->lib.add_delegate(state->interpreter, &state->delegate), "Interpreter::ModifyGraphWithDelegate");
    if (state->context == NULL) runtime_failed("Interpreter::ModifyGraphWithDelegate", "no context");
    check(state->lib.allocate(state->interpreter), "Interpreter::AllocateTensors");
}
