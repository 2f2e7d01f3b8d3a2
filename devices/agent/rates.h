#ifndef RATES_H
#define RATES_H

/* Measures what one core can do at best, about `seconds` in all, and writes it as an event. */
void rates(double seconds);

#endif
