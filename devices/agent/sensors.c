#include "sensors.h"

#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "events.h"
#include "files.h"

enum { MAX_FILES = 512 };

static const char *const SENSOR_FILES[] = {
    "/sys/class/hwmon/*/name",
    "/sys/class/hwmon/*/power*_input",
    "/sys/class/hwmon/*/power*_label",
    "/sys/class/hwmon/*/curr*_input",
    "/sys/class/hwmon/*/curr*_label",
    "/sys/class/hwmon/*/in*_input",
    "/sys/class/hwmon/*/in*_label",
    "/sys/class/power_supply/*/type",
    "/sys/class/power_supply/*/status",
    "/sys/class/power_supply/*/current_now",
    "/sys/class/power_supply/*/voltage_now",
    "/sys/class/power_supply/*/power_now",
    "/sys/class/power_supply/*/capacity",
    "/sys/class/powercap/intel-rapl*/name",
    "/sys/class/powercap/intel-rapl*/energy_uj",
    "/sys/class/powercap/intel-rapl*/max_energy_range_uj",
};

static const char *root(void) {
    const char *set = getenv("AGENT_ROOT");
    return set == NULL ? "" : set;
}

static bool rooted(char *place, size_t size, const char *path) {
    int length = snprintf(place, size, "%s%s", root(), path);
    return length > 0 && (size_t)length < size;
}

bool sensor_line(const char *path, char *line, size_t size) {
    char place[PATH_MAX];
    if (!rooted(place, sizeof place, path)) return false;
    ssize_t length = file_read(place, line, size - 1);
    if (length < 0) return false;
    line[length] = '\0';
    line[strcspn(line, "\n")] = '\0';
    return true;
}

bool sensor_integer(const char *path, int64_t *value) {
    char line[SENSOR_LINE], *end = NULL;
    if (!sensor_line(path, line, sizeof line)) return false;
    errno = 0;
    long long number = strtoll(line, &end, 10);
    while (isspace((unsigned char)*end)) end++;
    if (end == line || *end != '\0' || errno != 0) return false;
    *value = number;
    return true;
}

/* Calls `each` with every file that matches, in order, its path without the root. */
static void each_match(const char *pattern, void (*each)(const char *path)) {
    char escaped[PATH_MAX];
    size_t at = 0;
    glob_t found;
    for (const char *from = root(); *from != '\0' && at + 2 < sizeof escaped; from++) {
        if (strchr("*?[\\", *from) != NULL) escaped[at++] = '\\';
        escaped[at++] = *from;
    }
    int length = snprintf(escaped + at, sizeof escaped - at, "%s", pattern);
    if (length < 0 || (size_t)length >= sizeof escaped - at) return;
    if (glob(escaped, 0, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc && i < MAX_FILES; i++) each(found.gl_pathv[i] + strlen(root()));
    globfree(&found);
}

static void add_line(const char *path) {
    char line[SENSOR_LINE];
    if (sensor_line(path, line, sizeof line)) event_text(path, line);
}

static void add_integer(const char *path) {
    int64_t value;
    if (sensor_integer(path, &value)) event_integer(NULL, value);
}

static void integers(const char *key, const char *pattern) {
    event_array_begin(key);
    each_match(pattern, add_integer);
    event_array_end();
}

static char battery[PATH_MAX]; /* the folder of the first that was found */

static void find_battery(const char *path) {
    char type[SENSOR_LINE];
    if (battery[0] != '\0' || !sensor_line(path, type, sizeof type) || strcmp(type, "Battery") != 0) return;
    snprintf(battery, sizeof battery, "%.*s", (int)(strlen(path) - strlen("type")), path);
}

static bool of_battery(char path[PATH_MAX], const char *file) {
    return (size_t)snprintf(path, PATH_MAX, "%s%s", battery, file) < PATH_MAX;
}

static void battery_state(void) {
    static const char *const numbers[] = {"capacity", "current_now", "voltage_now", "power_now"};
    char path[PATH_MAX], line[SENSOR_LINE];
    int64_t value;
    battery[0] = '\0';
    each_match("/sys/class/power_supply/*/type", find_battery);
    if (battery[0] == '\0') {
        event_null("battery");
        return;
    }
    event_object_begin("battery");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (of_battery(path, numbers[i]) && sensor_integer(path, &value)) event_integer(numbers[i], value);
    if (of_battery(path, "status") && sensor_line(path, line, sizeof line)) event_text("status", line);
    event_object_end();
}

void sensors_state(const char *when) {
    char line[SENSOR_LINE];
    event_begin("state");
    event_text("when", when);
    bool told = sensor_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", line, sizeof line);
    event_text("governor", told ? line : NULL);
    integers("frequency_khz", "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq");
    integers("temperature_millicelsius", "/sys/class/thermal/thermal_zone*/temp");
    battery_state();
    if (sensor_line("/proc/loadavg", line, sizeof line))
        event_number("load1", strtod(line, NULL));
    else
        event_null("load1");
    event_end();
}

/* The value behind a key of a file of lines `key : value`. */
static bool keyed(const char *path, const char *key, char *value, size_t size) {
    static char text[65536];
    char place[PATH_MAX];
    if (!rooted(place, sizeof place, path)) return false;
    ssize_t length = file_read(place, text, sizeof text - 1);
    if (length < 0) return false;
    text[length] = '\0';
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || colon == NULL) continue;
        if (strspn(line + strlen(key), " \t") != (size_t)(colon - line) - strlen(key)) continue;
        snprintf(value, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
        return true;
    }
    return false;
}

static void cpu(void) {
    static const char PART[] = "ARM part ";
    char line[SENSOR_LINE];
    bool told = sensor_line("/proc/device-tree/model", line, sizeof line) ||
                sensor_line("/sys/firmware/devicetree/base/model", line, sizeof line) ||
                keyed("/proc/cpuinfo", "model name", line, sizeof line) ||
                keyed("/proc/cpuinfo", "Model", line, sizeof line) ||
                keyed("/proc/cpuinfo", "Hardware", line, sizeof line);
    if (!told && keyed("/proc/cpuinfo", "CPU part", line, sizeof line - sizeof PART)) {
        memmove(line + strlen(PART), line, strlen(line) + 1);
        memcpy(line, PART, strlen(PART));
        told = true;
    }
    event_text("cpu", told ? line : NULL);
}

void sensors_describe(void) {
    struct utsname system = {0};
    char line[SENSOR_LINE];
    uname(&system);
    event_begin("device");
    event_text("machine", system.machine);
    event_text("system", system.sysname);
    event_text("release", system.release);
    event_integer("page_size", sysconf(_SC_PAGESIZE));
    event_integer("cores", sysconf(_SC_NPROCESSORS_ONLN));
    cpu();
    if (keyed("/proc/meminfo", "MemTotal", line, sizeof line))
        event_integer("memory_bytes", strtoll(line, NULL, 10) * 1024);
    else
        event_null("memory_bytes");
    event_object_begin("sensors");
    for (size_t i = 0; i < sizeof SENSOR_FILES / sizeof SENSOR_FILES[0]; i++) each_match(SENSOR_FILES[i], add_line);
    event_object_end();
    event_end();
}
