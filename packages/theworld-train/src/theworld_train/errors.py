"""Errors that a user of the command line can mend."""


class UsageError(ValueError):
    """What was asked cannot be done as asked."""
