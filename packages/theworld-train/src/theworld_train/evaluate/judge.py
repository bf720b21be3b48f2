"""A language model as a second reader of answers, to check the rules with; no score of a report comes from it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from theworld_train.data.example import digest
from theworld_train.evaluate.task import Item, Score, Task
from theworld_train.evaluate.tasks.rows import text_of

SYSTEM = (
    "You read answers to questions about pictures. You do not see the picture. Reply with one JSON object, no more."
)
_READ = {
    "length": 'Which length does the response give, in metres? Reply {"metres": number}, or {"metres": null} if it '
    "gives none, or none in a unit of length.",
    "clock": 'Which hour of the clock does the response give as direction? Reply {"hour": number}, or {"hour": null} '
    "if it gives none.",
    "verdict": 'Does the response say the same as the correct answer? Reply {"verdict": "right"}, {"verdict": "wrong"} '
    'or {"verdict": "none"} if it gives no answer, several, or refuses.',
}


_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
"""As models write code in Markdown."""


class JudgeError(RuntimeError):
    """The judge gave no usable reply: an error of the judging, not a wrong answer."""


class JudgeUnreachable(JudgeError):
    """It gave none at all."""


class Reader(Protocol):
    """A language model that is asked in words; see ``readers``."""

    @property
    def identity(self) -> str:
        """Which model it is: its replies are kept under this."""
        ...

    def read(self, prompt: str) -> str:
        """What it replies.

        Raises:
            JudgeError: nothing.
        """
        ...


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Length(_Reply):
    metres: float | None


class _Clock(_Reply):
    hour: float | None


class _Verdict(_Reply):
    verdict: Literal["right", "wrong", "none"]


_REPLIES: Mapping[str, type[_Reply]] = {"length": _Length, "clock": _Clock, "verdict": _Verdict}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A reader that replies in JSON, each reply kept.

    Attributes:
        cache: folder of replies by the digest of model and prompt; what stands there is not asked again.
    """

    reader: Reader
    cache: Path

    def score(self, task: Task, item: Item, answer: str) -> Score:
        """What the answer is worth by the judge's reading; lengths and hours are measured as the task measures them.

        Raises:
            JudgeError: it cannot be reached, or its reply is not the JSON that was asked for.
            UsageError: there is no key for OpenAI's endpoint.
        """
        kind, prompt = _asked(item, answer)
        reply = self._kept(kind, prompt)
        if reply is None:
            reply = _checked(kind, self.reader.read(prompt))
            self._keep(prompt, reply)
        match reply:
            case _Length(metres=float(metres)):
                return task.score(item, f"{metres:f} m")
            case _Clock(hour=float(hour)):
                return task.score(item, "{}:{:02d}".format(*divmod(round(60 * hour), 60)))
            case _Verdict(verdict="right"):
                return Score(value=1.0, parsed="right")
            case _Verdict(verdict="wrong"):
                return Score(value=0.0, parsed="wrong")
        return Score(value=None)

    def knows(self, item: Item, answer: str) -> bool:
        """Whether its reading is kept already."""
        return self._kept(*_asked(item, answer)) is not None

    def _file(self, prompt: str) -> Path:
        return self.cache / f"{digest(self.reader.identity, SYSTEM, prompt)}.json"

    def _kept(self, kind: str, prompt: str) -> _Reply | None:
        """What it replied before; a damaged file is none."""
        try:
            return _checked(kind, self._file(prompt).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, JudgeError):
            return None

    def _keep(self, prompt: str, reply: _Reply) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        file = self._file(prompt)
        partial = file.with_suffix(f".{os.getpid()}.{id(reply)}.partial")
        partial.write_text(reply.model_dump_json(), encoding="utf-8")
        partial.replace(file)


def _asked(item: Item, answer: str) -> tuple[str, str]:
    """Which kind of reply is wanted, and the prompt: the answer stands last, marked off, to be read and not obeyed."""
    reader = item.facts.get("reader")
    kind = reader if reader in ("length", "clock") else "verdict"
    wanted = "" if kind != "verdict" else f"Correct answer: {item.answer}\n"
    return kind, f"{_READ[kind]}\n\nQuestion: {text_of(item)}\n{wanted}Response, between the lines:\n---\n{answer}\n---"


def _checked(kind: str, content: str) -> Any:
    fenced = _FENCED.fullmatch(content.strip())
    try:
        return _REPLIES[kind].model_validate_json(fenced[1] if fenced else content)
    except ValidationError:
        raise JudgeError(f"the judge's reply is not the JSON that was asked for: {content[:200]!r}") from None
