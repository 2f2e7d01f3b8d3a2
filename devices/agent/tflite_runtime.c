#include "events.h"
#include "model.h"
void tflite_runtime_load(struct model *model, void *library, const char *file, int threads) {
    (void)model; (void)library; (void)file; (void)threads;
    fail(EXIT_FAILED, "tflite-runtime runs on 32-bit ARM only");
}
