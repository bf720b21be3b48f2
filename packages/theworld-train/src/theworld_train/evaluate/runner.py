"""Running a task: every item is asked once, and has its record, whatever happens meanwhile."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from theworld_fusion import TheWorldProcessor
from theworld_train.errors import UsageError
from theworld_train.evaluate.arms import check_arm, groups_of, takes_other_item, with_control
from theworld_train.evaluate.asker import Asker, Method
from theworld_train.evaluate.controls import partners
from theworld_train.evaluate.facts import code_facts, code_identity, machine_facts, weights_digest
from theworld_train.evaluate.folder import SUMMARY, EvaluationFolder, read_records
from theworld_train.evaluate.item import Loaded, answer, load, reason
from theworld_train.evaluate.prompts import signature
from theworld_train.evaluate.summary import Summary, read_summary, summarise
from theworld_train.evaluate.task import Item, Task
from theworld_train.evaluate.watch import WorldIgnored
from theworld_train.jobs import Bars
from theworld_train.processes import on_any, on_main, part

_AHEAD = 2
"""Batches whose pictures and clips are read while another one is asked."""


def run_task(
    model: Any,
    processor: TheWorldProcessor,
    task: Task,
    out: Path,
    *,
    method: Method = "likelihood",
    world: Literal["on", "off"] = "on",
    control: str | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 64,
    seed: int = 0,
    limit: int | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
    show: bool = True,
) -> Summary:
    """Ask a model all items of a task, and keep a record of each in ``out``.

    A run that was killed and goes on writes the same file, byte for byte, as one that was not; so do several processes
    (each with a model of its own), which share the batches out. A folder that is finished is only read.

    Args:
        model: TheWorld; with the world off also the base VLM.
        method: compare the likelihoods of each item's choices, or generate an answer and read it.
        control: replaces the world encoder; see ``arms``.
        batch_size: items asked together. It rounds the last bits of a score, so it is part of what a folder is.
        seed: draws the partners of ``other-item``.
        limit: ask so many items only, evenly spread over the task.
        resume: go on with the evaluation in ``out``, where it has begun.
        facts: who the model is, for the manifest: it has to be the same when the evaluation goes on.
        where: model and data are found now; when the evaluation goes on, they may lie elsewhere.
        show: draw a progress bar.

    Raises:
        UsageError: ``out`` holds another evaluation, the arm does not fit the model, the items have no choices to
            compare, or world tokens do not reach the model.
    """
    check_arm(model, world, control)
    items = _limited(task.items(), limit)
    _check_items(items, method)
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    folder = EvaluationFolder(out, [[item.key for item in batch] for batch in batches])
    process = PartialState(cpu=not torch.accelerator.is_available())
    others = _other_items(model, items, world, control, seed)
    evaluation = {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "items": len(items),
        "limit": limit,
        "method": method,
        "world": world,
        "control": control,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens if method == "generate" else None,
        "seed": seed,
        "dtype": str(model.dtype).removeprefix("torch."),
        "model": dict(facts or {}),
        "weights": weights_digest(model),
        **code_identity(),
    }
    of_run = {**(where or {}), **machine_facts(process.num_processes), **code_facts()}
    with ExitStack() as stack:

        def begin() -> list[int]:
            done = stack.enter_context(folder.begun(evaluation, of_run, resume=resume))
            return [] if done else folder.pending()

        pending = _agreed(process, begin)
        if not folder.is_done:
            stack.callback(model.train, model.training)
            model.eval()
            if world == "on":
                stack.enter_context(with_control(model, control))
            asker = Asker(model, processor, method=method, max_new_tokens=max_new_tokens)
            run = _Run(task, asker, world, others, folder, batches, process)
            run.all(pending, show=show)
            on_main(process, lambda: _finish(folder, task.name, control or world, method))
    return read_summary(out / SUMMARY)


class _Run:
    """The batches of one process."""

    def __init__(
        self,
        task: Task,
        asker: Asker,
        world: Literal["on", "off"],
        others: Mapping[str, Item],
        folder: EvaluationFolder,
        batches: Sequence[Sequence[Item]],
        process: PartialState,
    ) -> None:
        self.task, self.asker, self.folder, self.batches, self.process = task, asker, folder, batches, process
        self.load = partial(load, asker.processor, world=world, others=others)

    def all(self, pending: Sequence[int], *, show: bool) -> None:
        """Ask what is pending and this process's share."""
        mine = pending[self.process.process_index :: self.process.num_processes]
        failed: UsageError | None = None
        with Bars(disable=not (show and self.process.is_main_process)) as bars:
            report = bars.add(self.task.name)
            done, total, right, errors = 0, sum(len(self.batches[number]) for number in mine), 0.0, 0
            report(0, total)
            try:
                for loaded in self._loaded(mine):
                    records = answer(self.asker, self.task, loaded)
                    self.folder.append(records, self.process.process_index, self.process.num_processes)
                    done += len(records)
                    right += sum(record.score or 0.0 for record in records)
                    errors += sum(record.error is not None for record in records)
                    mean = f"score {right / (done - errors):.3f}" if done > errors else ""
                    report(done, total, f"{mean} {errors} errors" if errors else mean)
            except WorldIgnored as error:
                failed = UsageError(str(error))
            except torch.OutOfMemoryError as error:
                failed = UsageError(
                    f"{reason(error)}. Ask fewer items together (--batch-size), then go on with --resume."
                )
            except OSError as error:  # what is wrong with an item is in its record
                failed = UsageError(
                    f"records cannot be written into {self.folder.path} ({error.strerror}). Make room, then go on with "
                    "--resume."
                )
        if on_any(self.process, failed is not None):
            part()
            raise failed or SystemExit(2)

    def _loaded(self, numbers: Sequence[int]) -> Iterator[list[Loaded]]:
        """Batches in order, with pictures and clips read ahead: few at a time, for they are large."""
        with ThreadPoolExecutor(2) as pool:
            reading: dict[int, list[Future[Loaded]]] = {}
            for place, number in enumerate(numbers):
                for ahead in numbers[place : place + 1 + _AHEAD]:
                    if ahead not in reading:
                        reading[ahead] = [pool.submit(self.load, item) for item in self.batches[ahead]]
                yield [future.result() for future in reading.pop(number)]


def _finish(folder: EvaluationFolder, task: str, arm: str, method: str) -> None:
    folder.merge()
    if not folder.is_whole:
        raise UsageError(f"{folder.path} lacks records that were written. Is it on a disk that all processes share?")
    records = read_records(folder.path, finished=False)
    folder.finish(asdict(summarise(records, task=task, arm=arm, method=method)))


def _agreed(process: PartialState, act: Any) -> list[int]:
    """What the main process finds, on all of them."""
    found: list[Any] = [None]

    def on_this() -> None:
        found[0] = json.dumps(act())

    on_main(process, on_this)
    return json.loads((broadcast_object_list(found) if process.use_distributed else found)[0])


def _limited(items: Sequence[Item], limit: int | None) -> list[Item]:
    if limit is None or limit >= len(items):
        return list(items)
    if limit < 1:
        raise UsageError(f"the limit is {limit}. Ask at least one item.")
    return [items[place * len(items) // limit] for place in range(limit)]


def _check_items(items: Sequence[Item], method: Method) -> None:
    if not items:
        raise UsageError("the task has no items. Look at its options.")
    keys = [item.key for item in items]
    if len(set(keys)) < len(keys):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise UsageError(f"two items of the task have the key {twice!r}. Give each its own.")
    if method == "likelihood" and (without := [item.key for item in items if not item.choices]):
        raise UsageError(
            f"{len(without)} of {len(items)} items have no choices to compare, the first is {without[0]!r}. "
            "Ask with --method generate."
        )


def _other_items(model: Any, items: Sequence[Item], world: str, control: str | None, seed: int) -> dict[str, Item]:
    """For each item, by its key, the one whose pictures and clips the world encoder sees instead."""
    if world == "off" or not takes_other_item(model, control):
        return {}
    groups = groups_of([item.key for item in items], [item.group for item in items])
    try:
        drawn = partners(groups, seed=seed, kinds=[signature(item.messages) for item in items])
    except ValueError as error:
        raise UsageError(f"other-item: {error}") from error
    return {item.key: items[other] for item, other in zip(items, drawn, strict=True)}
