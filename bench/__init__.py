"""Benchmarks: ours beside its peers, in one run, as ratios. Never part of the tests."""
