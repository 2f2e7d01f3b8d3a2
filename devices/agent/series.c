#include "series.h"

#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "job.h"

enum { FIRST_ROOM = 4096 };

static void *grown(void *list, size_t *room, size_t size) {
    *room = *room == 0 ? FIRST_ROOM : 2 * *room;
    void *more = *room > SIZE_MAX / size ? NULL : realloc(list, *room * size);
    if (more == NULL) fail(EXIT_FAILED, "out of memory for the run times; ask for fewer seconds");
    return more;
}

void series_begin(struct series *series, size_t model, int block) {
    if (series->piece_count == series->piece_room)
        series->pieces = grown(series->pieces, &series->piece_room, sizeof *series->pieces);
    series->pieces[series->piece_count++] = (struct piece){.model = model, .block = block, .first = series->count};
}

void series_add(struct series *series, int64_t start_ns, int64_t ns) {
    struct piece *piece = &series->pieces[series->piece_count - 1];
    if (piece->count == SERIES_PIECE) {
        series_begin(series, piece->model, piece->block);
        piece = &series->pieces[series->piece_count - 1];
    }
    if (piece->count == 0) piece->start_ns = start_ns;
    if (series->count == series->room) {
        if (series->count >= JOB_MAX_RUNS)
            fail(EXIT_FAILED, "more than %d runs; ask for fewer seconds", JOB_MAX_RUNS);
        series->ns = grown(series->ns, &series->room, sizeof *series->ns);
    }
    series->ns[series->count++] = (uint64_t)ns;
    piece->count++;
}

static int ascending(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

double series_median(const struct series *series) {
    size_t count = series->count;
    if (count == 0) return 0;
    uint64_t *sorted = malloc(count * sizeof *sorted);
    if (sorted == NULL) fail(EXIT_FAILED, "out of memory");
    memcpy(sorted, series->ns, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, ascending);
    double median = ((double)sorted[(count - 1) / 2] + (double)sorted[count / 2]) / 2;
    free(sorted);
    return median;
}

void series_write(const struct series *series) {
    for (size_t i = 0; i < series->piece_count; i++) {
        const struct piece *piece = &series->pieces[i];
        if (piece->count == 0) continue;
        event_begin("runs");
        event_integer("model", (int64_t)piece->model);
        if (piece->block == SERIES_NO_BLOCK)
            event_null("block");
        else
            event_integer("block", piece->block);
        event_integer("start_ns", piece->start_ns);
        event_array_begin("ns");
        for (size_t run = 0; run < piece->count; run++) event_integer(NULL, (int64_t)series->ns[piece->first + run]);
        event_array_end();
        event_end();
    }
}

void series_clear(struct series *series) {
    free(series->ns);
    free(series->pieces);
    *series = (struct series){0};
}
