/* Run times in the order they were taken, in pieces that each become one event. */
#ifndef SERIES_H
#define SERIES_H

#include <stddef.h>
#include <stdint.h>

enum { SERIES_PIECE = 1024, SERIES_NO_BLOCK = -1 };

struct piece {
    int64_t start_ns;
    size_t model;
    int block;
    size_t first, count;
};

struct series {
    uint64_t *ns;
    size_t count, room;
    struct piece *pieces;
    size_t piece_count, piece_room;
};

/* What follows belongs to this model and block. */
void series_begin(struct series *series, size_t model, int block);

/* A run that began at start_ns; ends the process if there are more than a job may ask for. */
void series_add(struct series *series, int64_t start_ns, int64_t ns);

double series_median(const struct series *series);

void series_write(const struct series *series);

void series_clear(struct series *series);

#endif
