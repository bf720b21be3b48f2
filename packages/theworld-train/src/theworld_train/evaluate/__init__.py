"""Evaluation: what a model answers, controls that swap its world input, and intervals."""
