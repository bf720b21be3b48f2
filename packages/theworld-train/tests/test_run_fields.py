"""Every field of a recipe that belongs to the run shows in what the run does."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from theworld_fusion import assemble
from theworld_fusion.testing import TINY_WORLD
from theworld_train import pair, run
from theworld_train.recipe import Recipe
from theworld_train.recipe_fields import leaves
from theworld_train.recipe_file import load_recipe
from theworld_train.run import run_recipe

START = (
    "model.vlm={folder}/vlm",
    "model.world={folder}/world",
    "stages.0.data.holdout=0.5",
    "stages.0.data.sources.0.limit=20",
    "eval={{every: 1, examples: 2, samples: 1, max_new_tokens: 2}}",
)

CASES = {
    "name": "name=other",
    "seed": "seed=1",
    "model.vlm": "model.vlm={other}/vlm",
    "model.vlm_revision": "model={{vlm: a/b, vlm_revision: abc, dtype: float32}}",
    "model.world": "model.world={other}/world",
    "model.world_revision": "model={{vlm: a/b, world_revision: abc, dtype: float32}}",
    "model.encoder": "model.encoder=registers",
    "model.encoder_settings": "model.encoder_settings={{num_future_frames: 1}}",
    "model.frame_size": "model.frame_size=32",
    "model.num_frames": "model.num_frames=5",
    "model.config": "model.config.world_attention=causal",
    "model.dtype": "model.dtype=bfloat16",
    "model.gradient_checkpointing": "model.gradient_checkpointing=true",
    "model.liger": "model.liger=true",
    "model.init_from": "model.init_from={other}",
    "stages.*.name": "stages.0.name=other",
    "stages.*.steps": "stages.0.steps=3",
    "batch.size": "batch.size=2",
    "batch.tokens": "batch={{tokens: 300}}",
    "batch.accumulate": "batch.accumulate=2",
    "batch.group_by_length": "batch.group_by_length=true",
    "batch.packing": "batch={{size: 2, packing: samples}}",
    "batch.row_tokens": "batch={{size: 2, packing: samples, row_tokens: 300}}",
    "optim.schedule": "optim.schedule=constant",
    "optim.warmup_steps": "optim.warmup_steps=1",
    "optim.beta1": "optim.beta1=0.5",
    "optim.beta2": "optim.beta2=0.5",
    "optim.max_grad_norm": "optim.max_grad_norm=0.5",
    "eval.every": "eval.every=2",
    "eval.examples": "eval.examples=3",
    "eval.samples": "eval.samples=2",
    "eval.max_new_tokens": "eval.max_new_tokens=3",
    "save.every": "save.every=2",
    "save.keep": "save.keep=1",
    "log.every": "log.every=2",
    "log.wandb": "log.wandb=project",
    "log.trackio": "log.trackio=project",
}
SHOWN_BEFORE = ("optim.lr", "optim.weight_decay", "stages.*.parts.", "stages.*.data.")
"""What the tests of parts and of data go through."""


def test_every_field_of_the_run_has_a_case() -> None:
    assert set(CASES) == {leaf for leaf in leaves() if not leaf.startswith(SHOWN_BEFORE)}


class Seen(Exception):
    """Raised where a run would begin to train."""


@pytest.fixture
def effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: tuple[Path, Path]) -> Any:
    """What a recipe's run hands to the model's maker, to the data, to the trainer, and to those that log."""
    number = iter(range(9))

    def effect(recipe: Recipe) -> list[Any]:
        seen: list[Any] = []

        class Trainer:
            def __init__(self, model: Any, args: Any, **options: Any) -> None:
                told = {name: value for name, value in args.to_dict().items() if not name.startswith("output_dir")}
                seen.extend([told, options["keep"], options["first_step"]])
                self.callbacks: list[Any] = []
                self.model, self.step = model, 0
                self.accelerator = SimpleNamespace(autocast=nullcontext)

            def add_callback(self, callback: Any) -> None:
                self.callbacks.append(callback)

            def train(self) -> None:
                for callback in self.callbacks:
                    seen.append(getattr(callback, "total", None))
                    for steps, act in getattr(callback, "things", ()):
                        seen.append(steps)
                        act()
                raise Seen

        class HeldOut:
            def __init__(self, examples: Any, processor: Any, **options: Any) -> None:
                seen.append((len(examples), options))

            def loss(self, model: Any) -> float:
                return 0.0

            def samples(self, model: Any, *options: int) -> list[Any]:
                seen.append(options)
                return []

        def batches(data: Any, batch: Any, processor: Any, **options: Any) -> Any:
            seen.append((batch, options, processor.world_num_frames))
            return options

        def assembled(vlm: str, world: str, **options: Any) -> Any:
            seen.append((vlm, world, options, torch.initial_seed()))
            return assemble(*folders, **{**TINY_WORLD, "num_frames": options["num_frames"]})

        with monkeypatch.context() as patch:
            patch.setattr(pair, "assemble", assembled)
            patch.setattr(run, "Trainer", Trainer)
            patch.setattr(run, "HeldOut", HeldOut)
            patch.setattr(run, "Batches", batches)
            patch.setattr(run, "load", lambda batches, **_: batches)
            patch.setattr(run, "fill_adapter", lambda model, folder: seen.append(folder) or set())
            for name in ("check_liger", "teach_liger"):
                patch.setattr(run, name, lambda *_: None)
            patch.setattr(run, "open_loggers", lambda recipe, out, step: seen.append((recipe.name, recipe.log)) or [])
            with pytest.raises(Seen):
                run_recipe(recipe, tmp_path / str(next(number)))
        return [*seen, recipe.stages[0].name]

    return effect


@pytest.mark.parametrize("field", CASES)
def test_another_value_has_another_effect(effect: Any, folders: tuple[Path, Path], tmp_path: Path, field: str) -> None:
    (tmp_path / "other").mkdir()
    for name in ("vlm", "world"):
        (tmp_path / "other" / name).symlink_to(folders[0].parent / name)
    here = {"folder": folders[0].parent, "other": tmp_path / "other"}
    start = [change.format(**here) for change in START]
    before = effect(load_recipe("smoke", start))
    assert str(before) == str(effect(load_recipe("smoke", start)))
    assert str(effect(load_recipe("smoke", [*start, CASES[field].format(**here)]))) != str(before)
