"""Benchmarks: the same work by this library and by what a user would pick instead. `python -m benchmarks --list`."""
