#include "runtime_error.h"

#include <stdio.h>

#include "complaints.h"
#include "events.h"

_Noreturn void runtime_failed(const char *call, const char *returned) {
    char said[1024];
    complaints_last(said, sizeof said);
    complaints_end();
    fail(EXIT_FAILED, "%s failed: %s%s%s", call, returned, said[0] == '\0' ? "" : ": ", said);
}

_Noreturn void runtime_failed_with(const char *call, int status) {
    char returned[32];
    snprintf(returned, sizeof returned, "status %d", status);
    runtime_failed(call, returned);
}
