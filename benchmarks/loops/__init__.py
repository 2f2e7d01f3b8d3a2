"""What others take a file's time with.

`python -m benchmarks.loops.NAME FILE RUNS` prints `ready`, waits for a line, and prints the median of a run in ns.
"""
