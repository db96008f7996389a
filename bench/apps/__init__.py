"""Apps that the benchmarks launch."""
