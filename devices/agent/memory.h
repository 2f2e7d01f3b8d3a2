#ifndef MEMORY_H
#define MEMORY_H

#include <stdint.h>

/* A field of this process's status in bytes: VmRSS (now) or VmHWM (peak); -1 where the kernel does not tell. */
int64_t memory_of_process(const char *field);

#endif
