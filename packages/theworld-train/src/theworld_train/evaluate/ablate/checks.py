"""Whether the arms of a plan may be compared: the same data, order, steps and prompts, and as many tokens."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from theworld_train.checkpoints import newest
from theworld_train.errors import UsageError
from theworld_train.evaluate.ablate.arms import Arm
from theworld_train.evaluate.records import Record
from theworld_train.trainer import read_progress

_WORLD = re.compile(r"<start_of_world>.*?<end_of_world>\s*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a run was trained on, as its last checkpoint tells.

    Attributes:
        digest: of the keys of its last stage's examples, in their order.
        examples, tokens: of that stage.
    """

    steps: int
    digest: str
    examples: int
    tokens: int
    cache_misses: int


def seen_by(run: Path) -> Seen:
    """Of a run that is done."""
    found = newest(run)
    if found is None:
        raise UsageError(f"{run} holds no trained run. Give the command again: it goes on where it stopped.")
    progress = read_progress(found[1], 0)
    return Seen(
        steps=found[0],
        digest=progress["digest"],
        examples=progress["examples"],
        tokens=progress["tokens"],
        cache_misses=progress["cache_misses"],
    )


def check_training(seen: Mapping[Arm, Seen]) -> None:
    """Raises:
    UsageError: two arms of a seed have not seen the same examples in the same order, or one had other features.
    """
    first: dict[int, tuple[Arm, Seen]] = {}
    for arm, one in seen.items():
        if (
            arm.world not in ("off", "registers")
            and one.cache_misses
            and any(stage.data.cache for stage in arm.recipe.stages)
        ):
            raise UsageError(f"{arm.name}, seed {arm.seed}: {one.cache_misses} features were missing. Train it again.")
        other, like = first.setdefault(arm.seed, (arm, one))
        if (one.steps, one.examples, one.digest) != (like.steps, like.examples, like.digest):
            raise UsageError(
                f"{arm.name} and {other.name}, seed {arm.seed}, were not trained on the same examples in the same "
                f"order: {one.steps} steps, {one.examples} examples, digest {one.digest[:10]}, and {like.steps}, "
                f"{like.examples}, {like.digest[:10]}. They cannot be compared: remove their folders, and run again."
            )


def check_asking(records: Mapping[Arm, Sequence[Record]]) -> None:
    """Raises:
    UsageError: arms were asked different questions, or different ones but for the world tokens.
    """
    asked = {arm: [(one.key, _WORLD.sub("", one.prompt)) for one in of_arm] for arm, of_arm in records.items()}
    first, like = next(iter(asked.items()))
    for arm, prompts in asked.items():
        if prompts != like:
            raise UsageError(f"{arm.name} and {first.name} were asked different questions. They cannot be compared.")
    tokens = {
        (arm.settings, tuple(one.world_tokens for one in of_arm))
        for arm, of_arm in records.items()
        if arm.world != "off"
    }
    if len(tokens) > len({settings for settings, _ in tokens}):
        raise UsageError("arms of the same settings have different numbers of world tokens. They cannot be compared.")
