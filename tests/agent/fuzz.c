/* Feeds mutated files to a reader of the agent: fuzz job|tflite SEED ROUNDS FILE...
 *
 * Each input ends where a page begins that nothing may touch, so that a reader that goes too far dies at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "job.h"
#include "tflite_file.h"

enum { ROOM = 1 << 17, MAX_FILES = 64 };

static uint64_t state;
static unsigned char *page_end;
static unsigned char *files[MAX_FILES];
static size_t sizes[MAX_FILES];

static size_t below(size_t bound) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return bound == 0 ? 0 : (size_t)(state >> 33) % bound;
}

static void require(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void make_room(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *place = mmap(NULL, ROOM + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(place != MAP_FAILED, "mmap");
    require(mprotect(place + ROOM, page, PROT_NONE) == 0, "mprotect");
    page_end = place + ROOM;
}

static void read_file(size_t index, const char *path) {
    FILE *file = fopen(path, "rb");
    require(file != NULL, path);
    files[index] = malloc(ROOM);
    sizes[index] = fread(files[index], 1, ROOM / 2, file);
    fclose(file);
}

/* Changes, drops, doubles or swaps stretches of it; returns the new size. */
static size_t mutate(unsigned char *bytes, size_t size) {
    static const unsigned char telling[] = {0, '\n', ' ', '0', '9', '.', '-', 0x7F, 0x80, 0xC3, 0xFF, '/', 'm'};
    for (size_t changes = 1 + below(8); changes > 0; changes--) {
        size_t at = below(size), length = 1 + below(size / 4 + 1);
        if (at + length > size) length = size - at;
        switch (below(6)) {
            case 0: if (size > 0) bytes[at] = (unsigned char)below(256); break;
            case 1: if (size > 0) bytes[at] = telling[below(sizeof telling)]; break;
            case 2: memmove(bytes + at, bytes + at + length, size - at - length); size -= length; break;
            case 3:
                if (size + length > ROOM / 2) break;
                memmove(bytes + at + length, bytes + at, size - at);
                size += length;
                break;
            case 4: size = at; break;
            default: if (size > 0) bytes[at] = (unsigned char)(bytes[at] ^ 1u << below(8)); break;
        }
    }
    return size;
}

static void within(const char *text, const char *begin, const char *end) {
    require(text >= begin && text < end && memchr(text, 0, (size_t)(end - text)) != NULL, "a path within the text");
}

static int try_job(const unsigned char *bytes, size_t size) {
    struct job job;
    char message[512] = "", *text = (char *)page_end - size - 1;
    memcpy(text, bytes, size);
    bool read = job_read(text, size, &job, message, sizeof message);
    if (!read) {
        require(message[0] != '\0' && strchr(message, '\n') == NULL, "one line on a job that is refused");
        return 0;
    }
    const char *end = (const char *)page_end;
    require(job.model_count >= 1 && job.model_count <= JOB_MAX_MODELS, "the number of models");
    require(job.threads >= 1 && job.threads <= JOB_MAX_THREADS, "threads");
    require(!job.swapped || job.model_count == 2, "swapped");
    require(job.runs >= 1 && job.blocks >= 1 && job.sample_ms >= 1, "counts");
    require(job.seconds >= 0 && job.seconds <= (double)JOB_MAX_SECONDS, "seconds");
    for (size_t i = 0; i < job.sensor_count; i++) within(job.sensors[i], text, end);
    for (size_t i = 0; i < job.model_count; i++) {
        within(job.models[i].file, text, end);
        within(job.models[i].library, text, end);
        require(job.models[i].runtime != RUNTIME_NONE, "a runtime");
        for (size_t file = 0; file < job.models[i].input_count; file++) within(job.models[i].inputs[file], text, end);
        for (size_t file = 0; file < job.models[i].output_count; file++) within(job.models[i].outputs[file], text, end);
    }
    return 1;
}

static int try_tflite(const unsigned char *bytes, size_t size) {
    struct tflite_ends ends = {0};
    unsigned char *place = page_end - size;
    memcpy(place, bytes, size);
    if (!tflite_ends(place, size, &ends)) return 0;
    require(ends.input_count <= TFLITE_MAX_ENDS && ends.output_count <= TFLITE_MAX_ENDS, "the number of ends");
    return 1;
}

int main(int count, char **arguments) {
    static unsigned char changed[ROOM];
    long taken = 0;
    size_t file_count = 0;
    require(count > 4 && count - 4 <= MAX_FILES, "usage: fuzz job|tflite SEED ROUNDS FILE...");
    int (*try)(const unsigned char *bytes, size_t size) = strcmp(arguments[1], "job") == 0 ? try_job : try_tflite;
    long rounds = strtol(arguments[3], NULL, 10);
    state = strtoull(arguments[2], NULL, 10);
    make_room();
    for (int i = 4; i < count; i++) read_file(file_count++, arguments[i]);
    for (size_t i = 0; i < file_count; i++) try(files[i], sizes[i]);
    for (long round = 0; round < rounds; round++) {
        size_t chosen = below(file_count);
        memcpy(changed, files[chosen], sizes[chosen]);
        taken += try(changed, mutate(changed, sizes[chosen]));
    }
    printf("%ld of %ld were taken\n", taken, rounds);
    return 0;
}
