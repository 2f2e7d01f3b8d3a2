#include "events.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "utf8.h"

static bool first; /* nothing stands yet before the next key or element */

static void string(const char *value) {
    const unsigned char *text = (const unsigned char *)value;
    size_t left = strlen(value);
    putchar('"');
    while (left > 0) {
        size_t length = utf8_length(text, left);
        if (length == 0) {
            fputs("\\ufffd", stdout);
            length = 1;
        } else if (*text == '"' || *text == '\\') {
            printf("\\%c", *text);
        } else if (*text < 0x20 || *text == 0x7F) {
            printf("\\u%04x", *text);
        } else {
            fwrite(text, 1, length, stdout);
        }
        text += length;
        left -= length;
    }
    putchar('"');
}

static void begin_value(const char *key) {
    if (!first) putchar(',');
    first = false;
    if (key != NULL) {
        string(key);
        putchar(':');
    }
}

void event_begin(const char *name) {
    putchar('{');
    first = true;
    event_text("event", name);
}

void event_end(void) {
    fputs("}\n", stdout);
    if (fflush(stdout) != 0 || ferror(stdout)) _exit(EXIT_FAILED);
}

void event_text(const char *key, const char *value) {
    begin_value(key);
    if (value == NULL)
        fputs("null", stdout);
    else
        string(value);
}

void event_integer(const char *key, int64_t value) {
    begin_value(key);
    printf("%lld", (long long)value);
}

void event_number(const char *key, double value) {
    begin_value(key);
    if (isfinite(value))
        printf("%.17g", value);
    else
        fputs("null", stdout);
}

void event_null(const char *key) { event_text(key, NULL); }

static void begin_group(const char *key, char bracket) {
    begin_value(key);
    putchar(bracket);
    first = true;
}

static void end_group(char bracket) {
    putchar(bracket);
    first = false;
}

void event_array_begin(const char *key) { begin_group(key, '['); }
void event_array_end(void) { end_group(']'); }
void event_object_begin(const char *key) { begin_group(key, '{'); }
void event_object_end(void) { end_group('}'); }

_Noreturn void leave(int code) {
    fflush(stdout);
    _exit(code);
}

_Noreturn void fail(int code, const char *format, ...) {
    char message[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    for (char *at = message; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20) *at = ' ';
    event_begin("error");
    event_text("message", message);
    event_end();
    leave(code);
}
