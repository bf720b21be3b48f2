"""Errors of this package."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used as asked."""
