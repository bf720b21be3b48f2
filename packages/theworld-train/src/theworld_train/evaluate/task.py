"""What a benchmark is: items with a question each, and a deterministic score for what is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question of a benchmark.

    Attributes:
        key: who it is; no two items of a task share one, and it is the same on every machine.
        family: what scores are summed up by: a sub-task, a family of questions.
        messages: the conversation in chat format up to the user's turn that is to be answered.
        answer: what is wanted, as the data set says it.
        choices: the answers whose likelihoods are compared; empty where only a generated answer can be scored.
        group: what it shares with other items, whose scores are therefore not independent of its own: a picture, a set
            of matched clips. Empty: nothing.
        facts: what scoring or summing up needs beyond this: a number and its unit, a level, a kind.
    """

    key: str
    family: str
    messages: list[dict[str, Any]]
    answer: str
    choices: tuple[str, ...] = ()
    group: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What an answer is worth.

    Attributes:
        value: 0 (wrong) to 1 (right); ``None`` where no answer could be read from the text, which counts apart.
        parsed: what was read from the text.
        figures: further ones, by name: within 10 %, relative error.
    """

    value: float | None
    parsed: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """A benchmark. Pictures and clips are read when an item's messages are, not before; see ``data.lazy``."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides its items: data, split, options, the version of a generator."""
        ...

    def items(self) -> Sequence[Item]:
        """All of them, in an order that is always the same."""
        ...

    def score(self, item: Item, answer: str) -> Score:
        """What ``answer`` is worth: a generated text, or one of the item's choices."""
        ...
