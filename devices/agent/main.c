/* edgekd's agent: runs models on a device by a job file and tells what it saw, one JSON line an event. */
#include <stdlib.h>
#include <string.h>

#include "events.h"
#include "hold.h"
#include "measure.h"
#include "rates.h"
#include "sensors.h"

static double positive(const char *text) {
    char *end = NULL;
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || !(number > 0 && number <= 600))
        fail(EXIT_BAD_JOB, "'%.40s' is not a number of seconds up to 600", text);
    return number;
}

int main(int count, char **arguments) {
    const char *command = count > 1 ? arguments[1] : "";
    if (count == 2 && strcmp(command, "describe") == 0)
        sensors_describe();
    else if (count == 3 && strcmp(command, "run") == 0)
        measure_run(arguments[2]);
    else if (count == 3 && strcmp(command, "hold") == 0)
        hold(arguments[2]);
    else if (count == 3 && strcmp(command, "sweep") == 0)
        sweep(arguments[2]);
    else if (count == 3 && strcmp(command, "rates") == 0)
        rates(positive(arguments[2]));
    else
        fail(EXIT_BAD_JOB, "usage: agent describe | run JOB | hold FOLDER | sweep FOLDER | rates SECONDS");
    leave(0);
}
