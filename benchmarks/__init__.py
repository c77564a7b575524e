"""Benchmarks: each runs from one command, names its peers, and writes JSON beside its table."""
