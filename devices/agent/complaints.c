#include "complaints.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { KEPT_BYTES = 8192 };

static const int CRASHES[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
enum { CRASH_COUNT = sizeof CRASHES / sizeof CRASHES[0] };

static int kept = -1, real_stderr = -1;

static ssize_t tail(char *text, size_t size) {
    off_t end = lseek(kept, 0, SEEK_END);
    return pread(kept, text, size, end > (off_t)size ? end - (off_t)size : 0);
}

/* The process dies of the signal after all, but its last words are heard. */
static void crashed(int number) {
    char text[1024];
    ssize_t length = kept < 0 ? 0 : tail(text, sizeof text);
    if (length > 0 && write(real_stderr, text, (size_t)length) < 0) _exit(128 + number);
    signal(number, SIG_DFL);
    raise(number);
}

void complaints_begin(void) {
    fflush(stderr);
    kept = memfd_create("complaints", MFD_CLOEXEC);
    real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (kept < 0 || real_stderr < 0 || dup2(kept, STDERR_FILENO) < 0) {
        kept = -1;
        return;
    }
    for (size_t i = 0; i < CRASH_COUNT; i++) signal(CRASHES[i], crashed);
}

void complaints_end(void) {
    fflush(stderr);
    if (kept < 0) return;
    for (size_t i = 0; i < CRASH_COUNT; i++) signal(CRASHES[i], SIG_DFL);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    close(kept);
    kept = real_stderr = -1;
}

void complaints_last(char *line, size_t size) {
    static char text[KEPT_BYTES + 1];
    line[0] = '\0';
    if (kept < 0) return;
    fflush(stderr);
    ssize_t length = tail(text, KEPT_BYTES);
    if (length <= 0) return;
    text[length] = '\0';
    for (char *each = strtok(text, "\n"); each != NULL; each = strtok(NULL, "\n")) {
        const char *error = strstr(each, "ERROR: ");
        snprintf(line, size, "%s", error != NULL ? error + strlen("ERROR: ") : each);
        if (error != NULL) return;
    }
}
