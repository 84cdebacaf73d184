"""Tests of the benchmarks: figures nobody can trust are worse than none."""
