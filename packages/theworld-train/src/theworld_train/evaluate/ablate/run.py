"""An ablation from the plan to the report; what is done already is not done again."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from theworld_train.errors import UsageError
from theworld_train.evaluate.ablate.arms import Arm, Bases, all_arms
from theworld_train.evaluate.ablate.base import base_recipe, bases_of, make_base
from theworld_train.evaluate.ablate.checks import check_asking, check_training, seen_by
from theworld_train.evaluate.ablate.features import features_key, is_cached
from theworld_train.evaluate.ablate.findings import Answers, TaskFindings, find
from theworld_train.evaluate.ablate.plan import Plan
from theworld_train.evaluate.ablate.plan_file import dump_plan
from theworld_train.evaluate.ablate.report import Outcome, verdicts, write_report
from theworld_train.evaluate.ablate.work import RUN, askings, do_arms, fill_caches, open_tasks
from theworld_train.evaluate.facts import code_facts
from theworld_train.evaluate.folder import read_records
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.task import Task
from theworld_train.folders import kept_alone
from theworld_train.jobs import Jobs
from theworld_train.recipe import Recipe
from theworld_train.run_folder import PARTS


def run_ablation(
    plan: Plan, out: Path, *, processes: int = 2, say: Callable[[str], None] = print, command: str = ""
) -> Outcome:
    """Train and ask every arm; write ``report.html``, ``report.md`` and ``findings.json`` into ``out``.

    Killed at any moment and called again, it goes on where it stopped. It works in processes of its own, so a script
    that calls it needs ``if __name__ == "__main__":``.

    Args:
        processes: how many arms are worked on at a time.
        say: takes each line for the user.
        command: what the report says it was made by.

    Raises:
        UsageError: an arm's recipe is none, a run failed, or the runs may not be compared.
    """
    started = time.monotonic()
    recipe, bases, arms = arms_of(plan, out)
    tasks = open_tasks(plan, arms[0].recipe.model.num_frames)
    check_sums(plan, tasks)
    seeds = len({arm.seed for arm in arms})
    with kept_alone(out):
        (out / "plan.yaml").write_text(dump_plan(plan), encoding="utf-8")
        say(f"{len({arm.name for arm in arms})} arms, {seeds} seeds: {len(arms)} runs, in {out}")
        with Jobs(processes) as jobs:
            if recipe is not None and bases is not None:
                _wait([jobs.submit("the base VLM", make_base, recipe, bases)])
            kinds = list({features_key(arm): arm for arm in arms if is_cached(arm)}.values())
            _wait([jobs.submit(f"features {n + 1}", fill_caches, part, out) for n, part in _deal(kinds, processes)])
            _wait([jobs.submit(f"arms {n + 1}", do_arms, plan, part, out) for n, part in _deal(arms, processes)])
        outcome = _outcome(plan, arms, tasks, out, time.monotonic() - started, command)
        write_report(outcome, out)
    for _, found, _ in outcome.tasks:
        say(f"\n{found.task}")
        for sentence in verdicts(found.comparisons):
            say(f"  {sentence}")
    say(f"\nreport: {out / 'report.html'}, {out / 'report.md'}    ({outcome.seconds:.0f} s)")
    return outcome


def arms_of(plan: Plan, out: Path) -> tuple[Recipe | None, Bases | None, list[Arm]]:
    """The recipe of the base that the plan wants trained, where that goes, and the arms.

    Raises:
        UsageError: one of their recipes is none.
    """
    if plan.base is None:
        return None, None, all_arms(plan, None)
    recipe = base_recipe(plan.base)
    bases = bases_of(recipe, out)
    return recipe, bases, all_arms(plan, bases)


def check_sums(plan: Plan, tasks: Sequence[Task]) -> None:
    """Before anything is trained.

    Raises:
        UsageError: a family is summed up that no task asks about.
    """
    if not plan.sums:
        return
    known = list(dict.fromkeys(item.family for task in tasks for item in task.items()))
    for kind, families in plan.sums.items():
        for family in families:
            if family not in known:
                raise UsageError(f"sums.{kind} has {family!r}, which no task asks about. They ask: {', '.join(known)}.")


def _deal(items: Sequence[Arm], processes: int) -> list[tuple[int, list[Arm]]]:
    """A share for each process, where there is one."""
    return [(number, list(items[number::processes])) for number in range(min(processes, len(items)))]


def _wait(futures: Sequence[Future[Any]]) -> None:
    """Until all are done, or one has failed: what goes on beside it is stopped, and goes on another time."""
    try:
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
    except BrokenProcessPool as error:
        raise UsageError(
            "a process was ended from outside, for want of memory perhaps. Give the same command again: it goes on "
            "where it stopped; --processes 1 takes half the memory."
        ) from error


def _outcome(
    plan: Plan, arms: Sequence[Arm], tasks: Sequence[Task], out: Path, seconds: float, command: str
) -> Outcome:
    seen = {arm: seen_by(out / arm.folder / RUN, arm.recipe) for arm in arms if arm.trains}
    check_training(seen)
    pairs = pairs_of(plan, arms)
    found, swapped = list[tuple[Task, TaskFindings, Answers]](), list[TaskFindings]()
    for task in tasks:
        answers: dict[Arm, list[Record]] = {}
        for arm in arms:
            [one] = [one for one in askings(plan, arm, [task], out) if one.swap is None]
            answers[arm] = read_records(one.folder)
        check_asking(answers)
        found.append((task, find(plan, task.name, answers, pairs), answers))
        if plan.swaps:
            swapped.append(_swapped(plan, arms, task, out))
    return Outcome(
        plan=plan,
        arms=arms,
        seen=seen,
        trained={arm: _trained(out / arm.folder / RUN) for arm in arms if arm.trains},
        tasks=found,
        swaps=swapped,
        seconds=seconds,
        command=command,
        code=code_facts(),
    )


def pairs_of(plan: Plan, arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Who is compared: each arm with the reference of its settings; references, and ``off``, with the first one."""
    by_settings = {arm.settings: arm.name for arm in arms if arm.world == plan.reference}
    first = next(iter(by_settings.values()))
    pairs = []
    for name, arm in {arm.name: arm for arm in arms}.items():
        reference = first if arm.world == plan.reference else by_settings.get(arm.settings, first)
        if reference != name:
            pairs.append((reference, name))
    return pairs


def _swapped(plan: Plan, arms: Sequence[Arm], task: Task, out: Path) -> TaskFindings:
    """The models of one arm, asked as they were trained and with each swap."""
    on = [arm for arm in arms if arm.world == "on"]
    answers: dict[Arm, list[Record]] = {}
    pairs = []
    for arm in on:
        for one in askings(plan, arm, [task], out):
            name = arm.name if one.swap is None else f"{arm.name}, asked with {one.swap}"
            answers[replace(arm, name=name)] = read_records(one.folder)
            if one.swap is not None and (arm.name, name) not in pairs:
                pairs.append((arm.name, name))
    check_asking(answers)
    return find(plan, task.name, answers, pairs)


def _trained(run: Path) -> int:
    return sum(row["trainable"] for row in json.loads((run / PARTS).read_text(encoding="utf-8")))
