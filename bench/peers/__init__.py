"""Measure convstore beside other conversation stores: `make bench-peers`. What it means: docs/benchmarks.md."""
