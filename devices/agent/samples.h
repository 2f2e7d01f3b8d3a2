/* The samples of a job's input files, and what the model makes of them. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include "job.h"
#include "model.h"

/* Runs all samples through the model and writes its outputs to the job's files, and an event; no files, no runs.
 * Afterwards the model holds the first sample. */
void samples_run(const char *job_file, const struct job_model *order, struct model *model, size_t position);

#endif
