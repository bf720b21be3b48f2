"""What one process does: arms one after the other, each trained and asked from wherever it stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from theworld_fusion import fill_adapter
from theworld_train.evaluate.ablate.arms import Arm
from theworld_train.evaluate.ablate.features import fill_cache, with_cache
from theworld_train.evaluate.ablate.plan import Plan
from theworld_train.evaluate.ablate.training import train
from theworld_train.evaluate.folder import SUMMARY
from theworld_train.evaluate.runner import run_task
from theworld_train.evaluate.task import Task
from theworld_train.evaluate.tasks import open_task
from theworld_train.jobs import Report
from theworld_train.pair import make_pair, make_tiny_pair
from theworld_train.recipe_checks import TINY

RUN = "run"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One evaluation of a trained run: a task, perhaps with a control that it was not trained with."""

    task: str
    swap: str | None
    folder: Path


def open_tasks(plan: Plan, num_frames: int) -> list[Task]:
    """The plan's tasks, for models that take so many frames of a clip."""
    return [open_task(settings, num_frames=num_frames) for settings in plan.tasks]


def askings(plan: Plan, arm: Arm, tasks: Sequence[Task], out: Path) -> list[Asking]:
    """All that a run is asked; a task that changes has another folder."""
    swaps = (None, *plan.swaps) if arm.world == "on" else (None,)
    return [
        Asking(
            task=task.name,
            swap=swap,
            folder=out / arm.folder / f"{task.name}-{task.fingerprint[:10]}{f'-{swap}' if swap else ''}",
        )
        for task in tasks
        for swap in swaps
    ]


def fill_caches(report: Report, arms: Sequence[Arm], out: Path) -> None:
    """Features of arms, one after the other."""
    for arm in arms:
        fill_cache(report, arm, out)


def do_arms(report: Report, plan: Plan, arms: Sequence[Arm], out: Path) -> None:
    """Train and ask each, unless that is done."""
    disable_progress_bar()
    for number, arm in enumerate(arms):
        label = f"{number + 1}/{len(arms)} {arm.name}, seed {arm.seed}"

        def of_arm(done: int, total: int | None, note: str = "", label: str = label) -> None:
            report(done, total, f"{label}: {note}")

        do_arm(of_arm, plan, arm, out)
    report(len(arms), len(arms), "done")


def do_arm(report: Report, plan: Plan, arm: Arm, out: Path) -> None:
    """One run, from where it stands.

    Raises:
        UsageError: it was asked to stop, or cannot be trained or asked.
    """
    tasks = open_tasks(plan, arm.recipe.model.num_frames)
    asked = askings(plan, arm, tasks, out)
    run = out / arm.folder / RUN
    run.mkdir(parents=True, exist_ok=True)
    checkpoint = train(with_cache(arm, out), run, report) if arm.trains else None
    if all((one.folder / SUMMARY).is_file() for one in asked):
        return
    if arm.recipe.model.vlm == TINY:
        make_tiny_pair(run, arm.recipe.seed)
    model, processor = make_pair(arm.recipe, run)
    if checkpoint is not None:
        fill_adapter(model, checkpoint)
    by_name = {task.name: task for task in tasks}
    for one in asked:
        report(0, len(asked), f"asking {one.task}{f' with {one.swap}' if one.swap else ''}")
        run_task(
            model,
            processor,
            by_name[one.task],
            one.folder,
            world="off" if arm.world == "off" else "on",
            control=one.swap,
            batch_size=_BATCH,
            resume=True,
            facts={"arm": arm.world, "seed": arm.seed, "identity": arm.identity},
            show=False,
        )


_BATCH = 16
"""Questions asked together."""
