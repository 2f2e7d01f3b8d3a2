/* Loops that keep one core's vector units busy and never leave its registers. */
#ifndef PEAK_H
#define PEAK_H

/* Each gives the loop that is best for this core; it does so many rounds and returns the operations they took, where a
 * multiplication and an addition are two. */
double (*peak_float32(void))(long rounds);
double (*peak_int8(void))(long rounds);

#endif
