"""Why a URL gave no picture."""


class Failure(Exception):
    """One URL's end without a picture; the job goes on.

    Attributes:
        outcome: the reason code; ``docs/fetch.md`` lists them.
        message: the same for people. It holds no URL: that may carry a password.
        status: the HTTP status, where there was an answer.
        transient: another try may go better.
        retry_after: seconds that the server asks to wait first.
    """

    def __init__(
        self,
        outcome: str,
        message: str,
        *,
        status: int | None = None,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{outcome}: {message}")
        self.outcome = outcome
        self.message = message
        self.status = status
        self.transient = transient
        self.retry_after = retry_after


def one_line(text: object, length: int = 200) -> str:
    """What a stranger's server or a library said, as a manifest can hold it."""
    return " ".join(str(text).split())[:length].encode(errors="replace").decode()
