/* How a call of a runtime that failed is told. */
#ifndef RUNTIME_ERROR_H
#define RUNTIME_ERROR_H

/* Ends the process with an error event: the call, what it returned, and what the runtime had to say. */
_Noreturn void runtime_failed(const char *call, const char *returned);
_Noreturn void runtime_failed_with(const char *call, int status);

#endif
