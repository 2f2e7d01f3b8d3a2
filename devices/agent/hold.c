#include "hold.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "events.h"

enum { MAX_DEPTH = 64 };

static const char MARK[] = ".held", DOOR[] = ".sweep";

static const int ENDING[] = {SIGTERM, SIGHUP, SIGINT};
enum { ENDING_COUNT = sizeof ENDING / sizeof ENDING[0] };

static volatile sig_atomic_t asked;

static void ask(int number) { asked = number; }

/* Removes what is in the folder behind `file`, which it closes; links are removed, never followed. */
static bool empty(int file, int depth) {
    DIR *folder = depth > MAX_DEPTH ? NULL : fdopendir(file);
    bool whole = true;
    if (folder == NULL) {
        close(file);
        return false;
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        struct stat about;
        if (unlinkat(file, name, 0) == 0 || errno == ENOENT) continue;
        if (fstatat(file, name, &about, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(about.st_mode))
            fchmodat(file, name, 0700, 0);
        int inner = openat(file, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner < 0 || !empty(inner, depth + 1)) whole = false;
        if (unlinkat(file, name, AT_REMOVEDIR) != 0 && errno != ENOENT) whole = false;
    }
    closedir(folder);
    return whole;
}

static bool remove_folder(const char *path) {
    int file = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0) return errno == ENOENT;
    return empty(file, 0) && (rmdir(path) == 0 || errno == ENOENT);
}

static void make_parents(const char *folder) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", folder);
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
        *slash = '/';
    }
}

/* A file in a folder, made if it is not there, locked; -1 if another process has it locked. */
static int lock_in(const char *folder, const char *name, int mode) {
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path) fail(EXIT_FAILED, "%s: the path is too long", folder);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
    while (flock(file, mode) != 0) {
        if (errno == EINTR) continue;
        close(file);
        return -1;
    }
    return file;
}

/* While it is held, nobody else makes or sweeps a folder there. */
static int enter(const char *parent) { return lock_in(parent, DOOR, LOCK_EX); }

static void wait_for_the_end(const sigset_t *open_signals) {
    char ignored[512];
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    while (!asked) {
        if (ppoll(&input, 1, NULL, open_signals) < 0) continue;
        ssize_t got = read(STDIN_FILENO, ignored, sizeof ignored);
        if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) return;
    }
}

static void split(const char *folder, char *path, char *parent) {
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') length--;
    if (length == 0 || length >= PATH_MAX) fail(EXIT_FAILED, "the folder's path is empty or too long");
    snprintf(path, PATH_MAX, "%.*s", (int)length, folder);
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        strcpy(parent, ".");
    else
        snprintf(parent, PATH_MAX, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

void hold(const char *folder) {
    static char path[PATH_MAX], parent[PATH_MAX];
    struct sigaction action = {.sa_handler = ask};
    sigset_t ours, open_signals;
    sigemptyset(&ours);
    for (size_t i = 0; i < ENDING_COUNT; i++) sigaddset(&ours, ENDING[i]);
    sigprocmask(SIG_BLOCK, &ours, &open_signals);
    for (size_t i = 0; i < ENDING_COUNT; i++) {
        sigaction(ENDING[i], &action, NULL);
        sigdelset(&open_signals, ENDING[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    split(folder, path, parent);
    make_parents(path);
    int door = enter(parent);
    if (mkdir(path, 0700) != 0) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
    int mark = lock_in(path, MARK, LOCK_EX | LOCK_NB);
    close(door);
    event_begin("held");
    event_end();
    wait_for_the_end(&open_signals);
    door = enter(parent);
    bool removed = remove_folder(path);
    close(mark);
    close(door);
    if (!removed) fail(EXIT_FAILED, "%s could not be removed whole", path);
}

static bool swept(const char *parent, const char *name) {
    char path[PATH_MAX], marker[PATH_MAX];
    struct stat about;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", parent, name) >= sizeof path) return false;
    if (lstat(path, &about) != 0 || !S_ISDIR(about.st_mode)) return false;
    if ((size_t)snprintf(marker, sizeof marker, "%s/%s", path, MARK) >= sizeof marker) return false;
    int mark = open(marker, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (mark >= 0 && flock(mark, LOCK_EX | LOCK_NB) != 0) {
        close(mark);
        return false;
    }
    bool removed = remove_folder(path);
    if (mark >= 0) close(mark);
    return removed;
}

void sweep(const char *parent) {
    int64_t count = 0;
    DIR *folder = opendir(parent);
    if (folder == NULL && errno != ENOENT) fail(EXIT_FAILED, "%s: %s", parent, strerror(errno));
    if (folder != NULL) {
        int door = enter(parent);
        for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
            if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
            count += swept(parent, entry->d_name);
        }
        close(door);
        closedir(folder);
    }
    event_begin("swept");
    event_integer("count", count);
    event_end();
}
