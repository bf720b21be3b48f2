"""A training run: a recipe's stages one after the other, in a folder that it can be resumed from."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import TrainingArguments, set_seed

from theworld_encoders.features import encoder_key
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, fill_adapter, save_adapter
from theworld_fusion.adapter import fingerprints
from theworld_train import sharding
from theworld_train.callbacks import Every, Figures, StopOnRequest
from theworld_train.checkpoints import newest
from theworld_train.curve import draw_losses
from theworld_train.data.batches import Batches, load
from theworld_train.data.example import Example
from theworld_train.data.heldout import held_out
from theworld_train.data.sources import check_caches, check_folders
from theworld_train.evaluate.held_out import HeldOut
from theworld_train.folders import kept_alone
from theworld_train.jobs import Bars, Report
from theworld_train.liger import check_liger, teach_liger
from theworld_train.loggers import LOG, Lines, Logger, open_loggers, read_lines
from theworld_train.lora import check_peft
from theworld_train.pair import make_pair
from theworld_train.processes import on_any, on_main
from theworld_train.reach import reach_all
from theworld_train.recipe import EvalSettings, Recipe, StageSettings
from theworld_train.recipe_file import RECIPE
from theworld_train.resting import lay_aside
from theworld_train.run_folder import PARTS, SAMPLES, Resume, prepare
from theworld_train.signals import stop_requests
from theworld_train.trainable import PartRow, apply_parts, parameter_groups, table, trainable_names
from theworld_train.trainer import Trainer, read_progress
from theworld_train.vision import vision_key

SKIPPED, LOSS = "skipped-{}.jsonl", "loss.png"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Where a run stands: optimiser steps done of how many, and its newest checkpoint."""

    step: int
    steps: int
    checkpoint: Path


def run_recipe(recipe: Recipe, out: Path, *, resume: Resume = False, report: Report | None = None) -> Outcome:
    """Train, or go on with training; SIGTERM or SIGUSR1 makes it save and end.

    Every stage starts from the checkpoint before it, so a run that went straight through and one that was resumed do
    the same.

    Args:
        out: the run's folder: ``checkpoint-N`` are adapters, ``log.jsonl``, ``tensorboard`` and ``loss.png`` figures,
            ``samples.jsonl`` answers to held-out questions, ``skipped-R.jsonl`` what process R left out.
        resume: go on with the run in ``out``, from its newest whole checkpoint; ``if begun``: where it holds one.
        report: takes the progress, where there is a bar for it elsewhere; without one, a bar is drawn.

    Raises:
        UsageError: ``out`` holds a run and ``resume`` is not set, holds none and it is, holds one of another recipe,
            or another process works there; a later stage needs what is not here; or a checkpoint cannot be written.
    """
    process = PartialState(cpu=not torch.accelerator.is_available())
    sharded = sharding.is_wanted()
    on_main(process, sharding.check_settings)
    on_main(process, lambda: check_peft(recipe))
    on_main(process, lambda: check_liger(recipe))
    on_main(process, lambda: check_folders(recipe))
    with ExitStack() as stack:
        requested = stack.enter_context(stop_requests())
        on_main(process, lambda: stack.enter_context(kept_alone(out)))
        on_main(process, lambda: prepare(recipe, out, resume=resume, processes=process.num_processes, sharded=sharded))
        last = newest(out)
        step = last[0] if last else 0
        main = process.is_main_process
        bars = stack.enter_context(Bars(disable=not main or report is not None))
        run = _Run(
            recipe=recipe,
            out=out,
            process=process,
            sharded=sharded,
            loggers=[stack.enter_context(closing(one)) for one in (open_loggers(recipe, out, step) if main else ())],
            samples=stack.enter_context(closing(Lines(out / SAMPLES, step))) if main else None,
            requested=requested,
            report=report or bars.add(recipe.name),
            say=bars.print if report is None else _say_nothing,
        )
        run.stages(step)
    step, checkpoint = newest(out) or (0, out)
    return Outcome(step=step, steps=run.steps, checkpoint=checkpoint)


@dataclass(kw_only=True)
class _Built:
    """A model as a stage starts with it."""

    model: TheWorldForConditionalGeneration
    processor: TheWorldProcessor
    rows: list[PartRow]
    trained: set[str]
    """Names of parameters that this stage trains or an earlier one did."""
    bases: Mapping[str, str]
    """Fingerprints of what was not trained."""
    keys: Mapping[str, str | None]
    """Of the towers whose features the stage's caches hold."""


@dataclass(kw_only=True)
class _Run:
    """What the stages of a run share."""

    recipe: Recipe
    out: Path
    process: PartialState
    sharded: bool
    """Whether weights are dealt out over the processes."""
    loggers: list[Logger]
    samples: Lines | None
    requested: Event
    report: Report
    say: Callable[[str], None]

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.recipe.stages)

    @property
    def world(self) -> Literal["on", "off"]:
        return "on" if self.recipe.model.has_world else "off"

    def stages(self, step: int) -> None:
        """Train what is left after ``step``."""
        for index, stage in enumerate(self.recipe.stages):
            first = sum(before.steps for before in self.recipe.stages[:index])
            if step < first + stage.steps and not on_any(self.process, self.requested.is_set()):
                last = newest(self.out)
                self._train(self._build(index, last), index, first, last)

    def _build(self, index: int, last: tuple[int, Path] | None) -> _Built:
        """The pair, with what was trained so far, and the stage's parts ready to be trained."""
        model, processor = make_pair(self.recipe, self.out)
        stage, source = self.recipe.stages[index], last[1] if last else self.recipe.model.init_from
        trained = fill_adapter(model, source) if source else set[str]()
        set_seed(self.recipe.seed + index)  # of new LoRA layers
        rows = apply_parts(model, stage.parts, self.recipe.optim.lr)
        trained |= trainable_names(model)
        if self.process.is_main_process:
            self.say(f"stage {stage.name}\n{table(rows)}")
            (self.out / PARTS).write_text(json.dumps([asdict(row) for row in rows], indent=2), encoding="utf-8")
        bases, keys = fingerprints(model, trained), _keys(stage, model, processor)
        on_main(self.process, lambda: check_caches(index, stage.data, **keys))
        for name, key in (("world_encoder", keys["encoder_key"]), ("vision_tower", keys["vision_key"])):
            if key is not None and not any(one.startswith(f"model.{name}.") for one in trained):
                lay_aside(model.model, name, torch.device(self.process.device or "cpu"))
        reach_all(model)
        if self.recipe.model.liger:
            teach_liger()
        if self.sharded:
            sharding.shard(model, getattr(torch, self.recipe.model.dtype), torch.device(self.process.device or "cpu"))
            places = ", ".join(f"{size / 1e6:,.1f} MB on {kind}" for kind, size in sharding.resting(model).items())
            if self.process.is_main_process:
                self.say(f"each process keeps about {places}")
        return _Built(model=model, processor=processor, rows=rows, trained=trained, bases=bases, keys=keys)

    def _train(self, built: _Built, index: int, first: int, last: tuple[int, Path] | None) -> None:
        """Train a stage from its beginning, after step ``first``, or from the newest checkpoint if that lies inside."""
        recipe, stage, rank = self.recipe, self.recipe.stages[index], self.process.process_index
        checkpoint = last[1] if last and last[0] > first else None
        batches = Batches(
            stage.data,
            recipe.batch,
            built.processor,
            seed=recipe.seed + index,
            rank=rank,
            ranks=self.process.num_processes,
            world=self.world,
            **built.keys,
            start=read_progress(checkpoint, rank)["position"] if checkpoint else None,
        )
        trainer = Trainer(
            built.model,
            _arguments(recipe, stage, index, self.out),
            batches=load(batches, pin_memory=torch.accelerator.is_available()),
            groups=parameter_groups(built.model, built.rows, recipe.optim.weight_decay),
            run=self.out,
            save=partial(self._save, built),
            first_step=first,
            keep=recipe.save.keep,
        )
        with closing(Lines(self.out / SKIPPED.format(rank), last[0] if last else 0)) as skipped:
            trainer.add_callback(Figures(trainer, self._log, skipped.log, self.report, self.steps))
            regular = [(recipe.save.every, self._draw)]
            if recipe.eval is not None:
                examples = held_out(stage.data, built.processor, recipe.eval.examples, world=self.world, **built.keys)
                regular.append((recipe.eval.every, self._evaluation(trainer, built.processor, examples, recipe.eval)))
            trainer.add_callback(Every(*regular))
            trainer.add_callback(StopOnRequest(self.process, self.requested))
            trainer.train() if checkpoint is None else trainer.resume(checkpoint)

    def _evaluation(
        self, trainer: Trainer, processor: TheWorldProcessor, examples: Sequence[Example], settings: EvalSettings
    ) -> Callable[[], None]:
        held = HeldOut(examples, processor, world=self.world, batch_size=self.recipe.batch.size or 1)

        def evaluate() -> None:
            model: Any = trainer.model
            model.eval()
            with trainer.accelerator.autocast():
                loss = held.loss(model)
                samples = held.samples(model, settings.samples, settings.max_new_tokens)
            sharding.reshard(model)
            self._log({"eval_loss": loss}, trainer.step)
            if self.samples is not None:
                for sample in samples:
                    self.samples.log(sample, trainer.step)
            self._draw()

        return evaluate

    def _log(self, figures: Mapping[str, Any], step: int) -> None:
        for one in self.loggers:
            one.log(figures, step)

    def _draw(self) -> None:
        if self.process.is_main_process:
            draw_losses(read_lines(self.out / LOG), self.out / LOSS)

    def _save(self, built: _Built, folder: Path) -> None:
        main = self.process.is_main_process
        save_adapter(built.model, folder, built.trained, bases=built.bases, is_main_process=main)
        if main:
            for name in (RECIPE, PARTS):
                shutil.copyfile(self.out / name, folder / name)


def _keys(
    stage: StageSettings, model: TheWorldForConditionalGeneration, processor: TheWorldProcessor
) -> dict[str, str | None]:
    """Of the towers whose features the stage's caches hold."""
    return {
        "encoder_key": encoder_key(model.model.world_encoder) if stage.data.cache else None,
        "vision_key": vision_key(model, processor) if stage.data.vision_cache else None,
    }


def _arguments(recipe: Recipe, stage: StageSettings, index: int, out: Path) -> TrainingArguments:
    """What transformers' Trainer is told; what it could do by itself and we do, it is told to leave."""
    optim = recipe.optim
    return TrainingArguments(
        output_dir=str(out),
        max_steps=stage.steps,
        per_device_train_batch_size=1,  # batches come ready
        gradient_accumulation_steps=recipe.batch.accumulate,
        learning_rate=optim.lr,
        lr_scheduler_type="cosine" if optim.schedule == "cosine" else "constant_with_warmup",
        warmup_steps=optim.warmup_steps,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        max_grad_norm=optim.max_grad_norm,
        use_cpu=not torch.accelerator.is_available(),
        bf16=recipe.model.dtype == "bfloat16",
        activation_checkpointing=recipe.model.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if recipe.model.gradient_checkpointing else None,
        use_liger_kernel=recipe.model.liger,
        seed=recipe.seed + index,
        logging_steps=recipe.log.every,
        logging_nan_inf_filter=False,  # a loss that is not a number is shown as such
        save_steps=recipe.save.every,
        ignore_data_skip=True,  # batches start where they should
        remove_unused_columns=False,
        # None is unused: see reach_all. But DDP that does not look sorts gradients anew after its first step. Three
        # processes then add up in another order, and on CPUs a resumed run has to be equal to the last bit.
        ddp_find_unused_parameters=not torch.accelerator.is_available(),
        disable_tqdm=True,
        report_to=[],
    )


def _say_nothing(text: str) -> None:
    """Where progress is shown elsewhere."""
