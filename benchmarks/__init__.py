"""Benchmarks: `python -m benchmarks [--quick] [--case NAME]`, or `nox -s bench`."""
