"""The toy model by every placement, started by the real launcher, does what it does on one device in float32.

Tolerance: on CPUs answers and weights are equal to float32's rounding (1e-5 after some steps, losses relatively); on
accelerators sums have another order and other kernels (2e-3).
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from theworld_fusion import load_adapter
from theworld_fusion.adapter import WEIGHTS
from theworld_fusion.testing import chat, encode, random_clip, tiny_model

WORKER = Path(__file__).with_name("worker.py")
STRATEGY = {"ddp2": "ddp", "fsdp2": "fsdp2", "fsdp2_offload": "fsdp2_offload"}
STEPS = 4


@pytest.mark.parametrize("placement", ["single", "split"])
def test_in_one_process(placement: str, tmp_path: Path) -> None:
    """Apart, or together: answers, training and what is saved are those of one CPU."""
    torch.manual_seed(0)
    for part in tiny_model(tmp_path / "bases"):
        part.save_pretrained(tmp_path / "whole")
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, *launcher, str(WORKER), str(tmp_path / "whole"), placement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "agrees" in done.stdout
    sys.stdout.write(done.stdout)


@pytest.fixture(scope="module")
def recipe(launching: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32; of two processes, one has words alone."""
    return launching.write_recipe(tmp_path_factory.mktemp("recipe"), save={"every": 1, "keep": 99})


@pytest.fixture(scope="module")
def alone(launching: Any, recipe: Path, devices: list[torch.device], tmp_path_factory: Any) -> Callable[..., Path]:
    """A run of one CPU process that sees in a step what all processes together see; the first is made once."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*arguments: str) -> Path:
        if arguments not in made:
            made[arguments] = tmp_path_factory.mktemp("alone") / "run"
            same = ("--set", f"batch.accumulate={2 * len(devices)}", "--out", str(made[arguments]))
            code, said = launching.finish([*launching.THEWORLD, "train", str(recipe), *same, *arguments])
            assert code == 0, said
        return made[arguments]

    return make


@pytest.mark.parametrize("placement", list(STRATEGY))
def test_on_several_processes(
    launching: Any,
    recipe: Path,
    alone: Callable[..., Path],
    devices: list[torch.device],
    on_accelerators: bool,
    tmp_path: Path,
    placement: str,
) -> None:
    tolerance = 2e-3 if on_accelerators else 1e-5
    run, strategy, number = tmp_path / "run", STRATEGY[placement], len(devices)
    command = launching.launched(recipe, run, strategy, processes=number)
    code, said = launching.finish(command, accelerators=on_accelerators)
    assert code == 0, said
    if placement != "ddp2":
        rests = {kind: float(size.replace(",", "")) for size, kind in re.findall(r"([\d.,]+) MB on (\w+)", said)}
        assert rests["cpu" if placement == "fsdp2_offload" else devices[0].type] > 0.4  # its part of the language model
        sys.stdout.write(f"{placement}: MB that each process keeps: {rests}\n")

    # Losses, gradients step by step, and weights are those of one process.
    for figure, same in zip(launching.figures(alone()), launching.figures(run), strict=True):
        assert same == pytest.approx(figure, rel=tolerance)
    for step in range(1, STEPS + 1):
        gradients = [launching.gradients(folder, step) for folder in (alone(), run)]
        assert step == 1 or all(gradient.any() for gradient in gradients[0])  # LoRA's first factors start at zero
        for gradient, same in zip(*gradients, strict=True):
            torch.testing.assert_close(same, gradient, atol=tolerance, rtol=0)
    checkpoints = [folder / f"checkpoint-{STEPS}" for folder in (alone(), run)]
    one, two = (load_file(folder / WEIGHTS) for folder in checkpoints)
    torch.testing.assert_close(two, one, atol=tolerance, rtol=0)

    # What was saved there is loaded on one device, and says the same.
    [(plain, processor), (loaded, _)] = map(load_adapter, checkpoints)
    inputs = encode(processor, [chat(random_clip(1))])
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, plain(**inputs).logits, atol=100 * tolerance, rtol=0)

    # And the reverse: a new run from the other's weights starts where the other does.
    changes = ["--set", "stages.0.steps=1"]
    again = launching.launched(
        recipe, tmp_path / "from", strategy, *changes, "--set", f"model.init_from={checkpoints[0]}", processes=number
    )
    code, said = launching.finish(again, accelerators=on_accelerators)
    assert code == 0, said
    [figure] = launching.figures(alone(*changes, "--set", f"model.init_from={checkpoints[1]}"))
    [same] = launching.figures(tmp_path / "from")
    assert same == pytest.approx(figure, rel=10 * tolerance)
    assert figure["loss"] < launching.figures(run)[0]["loss"]  # what was trained is in it
