/* What the kernel tells of the device. The folder in AGENT_ROOT, if set, stands in for / in every path here. */
#ifndef SENSORS_H
#define SENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SENSOR_LINE = 256 };

/* The first line of a file, cut to size - 1 bytes; false if it cannot be read. */
bool sensor_line(const char *path, char *line, size_t size);

bool sensor_integer(const char *path, int64_t *value);

void sensors_state(const char *when);
void sensors_describe(void);

#endif
