#ifndef MEASURE_H
#define MEASURE_H

/* Does the job of a file, all its events written. */
void measure_run(const char *job_file);

#endif
