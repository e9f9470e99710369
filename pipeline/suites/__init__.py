"""A paper's tables, made again: suites of data sets, methods and published numbers, and `mma reproduce`."""
