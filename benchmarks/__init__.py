"""Ratios against others, measured side by side: `python -m benchmarks --help`."""
