/* What a runtime writes to stderr while it loads a model is kept back: it is of use only if loading fails. */
#ifndef COMPLAINTS_H
#define COMPLAINTS_H

#include <stddef.h>

void complaints_begin(void);
void complaints_end(void);

/* The most telling line that was kept since the beginning, as one line; empty where there is none. */
void complaints_last(char *line, size_t size);

#endif
