/* Reading small files, and where a job's files are. */
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Up to `size` bytes from the file's beginning; -1 (and errno) if it cannot be read. */
ssize_t file_read(const char *path, void *bytes, size_t size);

/* `path` as it is if it is absolute, else seen from the folder of `beside`; lives until the process ends. */
char *file_beside(const char *beside, const char *path);

#endif
