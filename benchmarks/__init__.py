"""Benchmarks: how fast data reaches training, beside what people use today."""
