#include "noise.h"

#include <string.h>

static uint64_t state;

static uint64_t next(void) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(2685821657736338717);
}

/* Nearly normal, and the same to the last bit on every machine: the sum of twelve uniform numbers less its mean. */
static double normal(void) {
    int64_t sum = 0;
    for (int i = 0; i < 12; i++) sum += (int64_t)(next() >> 32);
    return (double)sum / 4294967296.0 - 6;
}

/* The nearest half-precision number towards zero of one that is neither huge nor tiny. */
static uint16_t half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)(bits >> 23 & 0xFF) - 127 + 15;
    if (exponent <= 0) return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 0x3FF));
}

void noise_fill(const struct tensor *tensor, void *bytes) {
    state = UINT64_C(88172645463325252);
    if (strcmp(tensor->dtype, "float32") == 0) {
        for (size_t i = 0; i < tensor->bytes / sizeof(float); i++) ((float *)bytes)[i] = (float)normal();
    } else if (strcmp(tensor->dtype, "float64") == 0) {
        for (size_t i = 0; i < tensor->bytes / sizeof(double); i++) ((double *)bytes)[i] = normal();
    } else if (strcmp(tensor->dtype, "float16") == 0) {
        for (size_t i = 0; i < tensor->bytes / sizeof(uint16_t); i++) ((uint16_t *)bytes)[i] = half((float)normal());
    } else if (strcmp(tensor->dtype, "int8") == 0 || strcmp(tensor->dtype, "uint8") == 0) {
        for (size_t i = 0; i < tensor->bytes; i++) ((uint8_t *)bytes)[i] = (uint8_t)(next() >> 56);
    } else {
        memset(bytes, 0, tensor->bytes);
    }
}
