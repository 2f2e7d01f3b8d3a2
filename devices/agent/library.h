/* Shared libraries of runtimes. */
#ifndef LIBRARY_H
#define LIBRARY_H

#include <stdbool.h>

#include "job.h"

/* Opened with all its symbols bound, but for tflite-runtime's, which needs a Python that is not there. */
void *library_open(const char *file, enum runtime runtime);

/* A function of it; ends the process with an error event that names the symbol if it has none. */
void library_bind(void *library, const char *name, void *function, size_t size);

bool library_has(void *library, const char *name);

/* Fills in the member of a table of functions that bears the function's name. */
#define BIND(library, table, name) library_bind(library, #name, &(table).name, sizeof((table).name))

#endif
