/* Inputs for a model that nothing is known about. */
#ifndef NOISE_H
#define NOISE_H

#include "model.h"

/* The same at every call and on every machine: nearly normal noise for floats, any value for integers of 8 bits, zeros
 * for what may be an index. */
void noise_fill(const struct tensor *tensor, void *bytes);

#endif
