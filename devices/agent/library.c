#include "library.h"

#include <dlfcn.h>
#include <string.h>

#include "events.h"

void *library_open(const char *file, enum runtime runtime) {
    void *library = dlopen(file, (runtime == RUNTIME_TFLITE_RUNTIME ? RTLD_LAZY : RTLD_NOW) | RTLD_LOCAL);
    if (library == NULL) fail(EXIT_FAILED, "dlopen failed: %s", dlerror());
    return library;
}

void library_bind(void *library, const char *name, void *function, size_t size) {
    void *found = dlsym(library, name);
    if (found == NULL) fail(EXIT_FAILED, "the runtime's library has no %s; it is of another version", name);
    memcpy(function, &found, size);
}

bool library_has(void *library, const char *name) { return dlsym(library, name) != NULL; }
