"""The errors of this package: each says in one sentence what is wrong, and in a second one what to do."""


def first_line(error: Exception) -> str:
    """What a library says, as far as it fits into a sentence of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class EncoderError(ValueError):
    """An encoder or its weights cannot be used as asked."""


class MediaError(ValueError):
    """A picture or clip cannot be read or used."""


class DamagedFeatures(EncoderError, UserWarning):
    """Cached features are not what was written; readers warn with it and go on."""
