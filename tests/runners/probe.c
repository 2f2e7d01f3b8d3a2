/* Tells what it sees of the machine it runs on, one line an argument: "@machine", "@wait" (until its input ends),
   "@loop" (the nanoseconds that a fixed number of instructions takes), "@open LIBRARY", a folder or a file. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void loop(void) {
    long long start = now();
    volatile uint32_t value = 1;
    for (uint32_t turn = 0; turn < 5000000; turn++) value = value * 1664525u + 1013904223u;
    printf("%lld\n", now() - start);
}

static void look(const char *path) {
    char line[256] = "";
    DIR *folder = opendir(path);
    if (folder) {
        int count = 0;
        for (struct dirent *entry; (entry = readdir(folder));) count += entry->d_name[0] != '.';
        printf("%d entries\n", count);
        closedir(folder);
        return;
    }
    FILE *file = fopen(path, "r");
    if (!file) {
        puts("absent");
        return;
    }
    if (!fgets(line, sizeof line, file)) strcpy(line, "\n");
    fputs(line, stdout);
    fclose(file);
}

int main(int count, char **arguments) {
    char byte;
    struct utsname names;
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "@machine")) {
            uname(&names);
            puts(names.machine);
        } else if (!strcmp(arguments[i], "@wait")) {
            while (read(0, &byte, 1) > 0) {}
        } else if (!strcmp(arguments[i], "@loop")) {
            loop();
        } else if (!strcmp(arguments[i], "@open")) {
            puts(dlopen(arguments[++i], RTLD_NOW) ? "opened" : dlerror());
        } else {
            look(arguments[i]);
        }
        fflush(stdout);
    }
    return 0;
}
