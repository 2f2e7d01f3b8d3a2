#include "tflite_file.h"

/* A FlatBuffer: tables point to their fields by a table of offsets, all little-endian, all relative. */
enum { MODEL_GRAPHS = 2, GRAPH_INPUTS = 1, GRAPH_OUTPUTS = 2 };

struct bytes {
    const uint8_t *at;
    size_t size;
};

static bool u16(struct bytes file, size_t place, size_t *value) {
    if (file.size < 2 || place > file.size - 2) return false;
    *value = (size_t)(file.at[place] | file.at[place + 1] << 8);
    return true;
}

static bool u32(struct bytes file, size_t place, uint32_t *value) {
    if (file.size < 4 || place > file.size - 4) return false;
    *value = 0;
    for (size_t i = 4; i > 0; i--) *value = *value << 8 | file.at[place + i - 1];
    return true;
}

/* The place that an offset leads to. */
static bool follow(struct bytes file, size_t place, size_t *found) {
    uint32_t offset;
    if (!u32(file, place, &offset) || offset > file.size - place) return false;
    *found = place + offset;
    return true;
}

/* The vector in a field of a table, its length read; an absent one is empty. */
static bool vector(struct bytes file, size_t table, size_t field, size_t *first, size_t *count) {
    uint32_t back, length;
    size_t fields, offset = 0, place;
    *count = 0;
    if (!u32(file, table, &back)) return false;
    int64_t start = (int64_t)table - (int32_t)back;
    if (start < 0 || (uint64_t)start > file.size || !u16(file, (size_t)start, &fields)) return false;
    if (4 + 2 * field + 2 <= fields && !u16(file, (size_t)start + 4 + 2 * field, &offset)) return false;
    if (offset == 0) return true;
    if (offset > file.size - table || !follow(file, table + offset, &place) || !u32(file, place, &length)) return false;
    *first = place + 4;
    *count = length;
    return length <= (file.size - place) / 4;
}

static bool integers(struct bytes file, size_t table, size_t field, int32_t *values, size_t *count) {
    size_t first = 0;
    if (!vector(file, table, field, &first, count) || *count > TFLITE_MAX_ENDS) return false;
    for (size_t i = 0; i < *count; i++) {
        uint32_t value;
        if (!u32(file, first + 4 * i, &value)) return false;
        values[i] = (int32_t)value;
    }
    return true;
}

bool tflite_ends(const uint8_t *bytes, size_t size, struct tflite_ends *ends) {
    struct bytes file = {bytes, size};
    size_t model, graphs = 0, count, graph;
    if (!follow(file, 0, &model) || !vector(file, model, MODEL_GRAPHS, &graphs, &count) || count == 0) return false;
    return follow(file, graphs, &graph) && integers(file, graph, GRAPH_INPUTS, ends->inputs, &ends->input_count) &&
           integers(file, graph, GRAPH_OUTPUTS, ends->outputs, &ends->output_count);
}
