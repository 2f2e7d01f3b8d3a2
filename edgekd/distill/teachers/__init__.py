"""Teachers of every kind, each opened as a function that answers batches, and the cache of their answers."""
