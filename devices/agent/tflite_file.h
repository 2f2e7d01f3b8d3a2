/* What a .tflite file says of its graph's ends. The file is not trusted. */
#ifndef TFLITE_FILE_H
#define TFLITE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TFLITE_MAX_ENDS = 16 };

struct tflite_ends {
    int32_t inputs[TFLITE_MAX_ENDS], outputs[TFLITE_MAX_ENDS]; /* places in the graph's list of tensors */
    size_t input_count, output_count;
};

/* False if these bytes are no model, or its first graph has too many inputs or outputs. */
bool tflite_ends(const uint8_t *bytes, size_t size, struct tflite_ends *ends);

#endif
