"""Whether the arms of a plan may be compared: the same data, order, steps and prompts, and as many tokens."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from theworld_train.checkpoints import checkpoints
from theworld_train.errors import UsageError
from theworld_train.evaluate.ablate.arms import Arm
from theworld_train.evaluate.records import Record
from theworld_train.recipe import Recipe
from theworld_train.trainer import read_progress

_WORLD = re.compile(r"<start_of_world>.*?<end_of_world>\s*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a run was trained on, as its checkpoints tell.

    Attributes:
        digests: of the keys of each stage's examples, in their order, by the step at which the stage ends; of those
            stages whose last checkpoint is kept, the last one at least.
        examples, tokens: of the last stage.
    """

    steps: int
    digests: Mapping[int, str]
    examples: int
    tokens: int
    cache_misses: int


def seen_by(run: Path, recipe: Recipe) -> Seen:
    """Of a run that is done."""
    ends = set(accumulate(stage.steps for stage in recipe.stages))
    found = {step: read_progress(folder, 0) for step, folder in checkpoints(run) if step in ends}
    if max(ends) not in found:
        raise UsageError(f"{run} holds no finished run. Give the command again: it goes on where it stopped.")
    progress = found[max(ends)]
    return Seen(
        steps=max(ends),
        digests={step: one["digest"] for step, one in found.items()},
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
        both = one.digests.keys() & like.digests.keys()
        different = [step for step in sorted(both) if one.digests[step] != like.digests[step]]
        if different or (one.steps, one.examples) != (like.steps, like.examples):
            raise UsageError(
                f"{arm.name} and {other.name}, seed {arm.seed}, were not trained on the same examples in the same "
                f"order: {one.steps} and {like.steps} steps, {one.examples} and {like.examples} examples in the last "
                f"stage, other keys until step {different[0] if different else 'none'}. They cannot be compared: "
                "remove their folders, and run again."
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
