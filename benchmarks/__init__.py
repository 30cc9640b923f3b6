"""Measurements against other libraries' public releases: `make bench`, or `python -m benchmarks
ROW…`.

A row is a file here with `run() -> list[dict]`, a line of the table each, and `PACKAGES`, whose
versions are noted with it. Rows share `measure` (how) and `material` (on what).
"""
