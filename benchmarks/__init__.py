"""Timings against other libraries' public releases: `make bench`, or `python -m benchmarks NAME…`.

A benchmark is a file here with `run() -> list[dict]`, a row each; `measure` has what they share.
"""
