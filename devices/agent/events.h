/* What the agent tells: one JSON object a line on stdout, each written as a whole and flushed. */
#ifndef EVENTS_H
#define EVENTS_H

#include <stdint.h>

enum { EXIT_FAILED = 1, EXIT_BAD_JOB = 2 };

void event_begin(const char *name);
void event_end(void);

/* A key of NULL stands for an element of an array. */
void event_text(const char *key, const char *value); /* NULL becomes null; what is not UTF-8 becomes U+FFFD */
void event_integer(const char *key, int64_t value);
void event_number(const char *key, double value);
void event_null(const char *key);
void event_array_begin(const char *key);
void event_array_end(void);
void event_object_begin(const char *key);
void event_object_end(void);

/* Writes an error event of one line and ends the process at once. */
_Noreturn void fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Ends the process at once, without the destructors of runtime libraries. */
_Noreturn void leave(int code);

#endif
