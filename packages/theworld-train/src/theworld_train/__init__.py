"""Training, evaluation and the command of TheWorld."""

from importlib.metadata import version

__version__ = version("theworld-train")
