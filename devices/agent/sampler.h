/* Reads sensors at a steady pace in a thread of its own, while it is on. */
#ifndef SAMPLER_H
#define SAMPLER_H

#include "job.h"

void sampler_start(const struct job *job);
void sampler_on(void);
void sampler_off(void); /* no reading is under way any more once it returns */

/* Ends the thread and writes what was read as power and power_lost events. */
void sampler_finish(void);

#endif
