/* Folders of runs: each exists as long as a process holds it. */
#ifndef HOLD_H
#define HOLD_H

/* Makes the folder, says so, and removes it with all in it once stdin ends or a signal asks for it. */
void hold(const char *folder);

/* Removes every folder in `parent` that nobody holds, and says how many. */
void sweep(const char *parent);

#endif
