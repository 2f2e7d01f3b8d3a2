#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "events.h"

ssize_t file_read(const char *path, void *bytes, size_t size) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0) return -1;
    size_t length = 0;
    while (length < size) {
        ssize_t got = read(file, (char *)bytes + length, size - length);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            int reason = errno;
            close(file);
            errno = reason;
            return -1;
        }
        if (got == 0) break;
        length += (size_t)got;
    }
    close(file);
    return (ssize_t)length;
}

char *file_beside(const char *beside, const char *path) {
    const char *slash = strrchr(beside, '/');
    size_t folder = *path == '/' ? 0 : slash == NULL ? 2 : (size_t)(slash - beside) + 1;
    char *joined = malloc(folder + strlen(path) + 1);
    if (joined == NULL) fail(EXIT_FAILED, "out of memory");
    memcpy(joined, slash == NULL ? "./" : beside, folder);
    strcpy(joined + folder, path);
    return joined;
}
