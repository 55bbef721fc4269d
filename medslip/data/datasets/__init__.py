"""One file per data set: everything that any task needs of it."""
