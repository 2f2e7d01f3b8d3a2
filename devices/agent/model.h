/* A model that a runtime has loaded: what it takes, what it gives, and how to run it. */
#ifndef MODEL_H
#define MODEL_H

#include <stddef.h>
#include <stdint.h>

enum { MODEL_MAX_TENSORS = 16, MODEL_MAX_RANK = 8, MODEL_MAX_NAME = 256 };

struct tensor {
    char name[MODEL_MAX_NAME];
    const char *dtype; /* as numpy calls it */
    int64_t shape[MODEL_MAX_RANK];
    size_t rank;
    size_t bytes;
};

/* Each function ends the process with an error event that names the call that failed. */
struct model {
    struct tensor inputs[MODEL_MAX_TENSORS];
    struct tensor outputs[MODEL_MAX_TENSORS];
    size_t input_count;
    size_t output_count;
    int64_t arena_bytes; /* -1 where the runtime does not tell */
    void *state;
    void (*describe)(struct model *model); /* fills in the tensors and makes their memory */
    void (*set_input)(struct model *model, size_t index, const void *bytes);
    void (*run)(struct model *model);
    void (*get_output)(struct model *model, size_t index, void *bytes);
};

/* Each loads `file` as far as it can before it is run; `library` is the runtime's, as dlopen gave it. */
void litert_load(struct model *model, void *library, const char *file, int threads);
void onnxruntime_load(struct model *model, void *library, const char *file, int threads);
void openvino_load(struct model *model, void *library, const char *file, int threads);
void tflite_runtime_load(struct model *model, void *library, const char *file, int threads);

/* Bytes of an element by numpy's name for it. */
size_t dtype_size(const char *dtype);

/* Works out tensor->bytes; ends the process if an unsupported type, an open side or too much memory is met. */
void tensor_finish(struct tensor *tensor, const char *kind);

void tensor_name(struct tensor *tensor, const char *name);

/* How many tensors of a kind the model has, refused if they are too many. */
size_t tensor_count(size_t count, const char *kind);

#endif
