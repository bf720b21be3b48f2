"""The toy model on the devices of this machine gives what it gives on one CPU."""

import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from theworld_fusion import assemble
from theworld_fusion.testing import TINY_WORLD, make_tiny_checkpoint

WORKER = Path(__file__).with_name("worker.py")


def test_one_process_per_device(devices: list[torch.device], tmp_path: Path) -> None:
    """Launched with torchrun, as training is: forward on each device, gradients averaged over all."""
    make_tiny_checkpoint(tmp_path)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(devices)}"]
    command = [sys.executable, *launcher, str(WORKER), str(tmp_path), devices[0].type]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("agrees") == len(devices)


def test_world_encoder_on_a_device_of_its_own(devices: list[torch.device], tmp_path: Path) -> None:
    """The encoder on the last device (on the CPU where there is but one), everything else on the first."""
    vlm, world = make_tiny_checkpoint(tmp_path)
    encoder_home = devices[-1] if len(devices) > 1 else torch.device("cpu")
    device_map = {"": str(devices[0]), "model.world_encoder": str(encoder_home)}
    model, processor = assemble(vlm, world, **TINY_WORLD, device_map=device_map)
    reference, _ = assemble(vlm, world, **TINY_WORLD)
    reference.load_state_dict(model.state_dict())  # each assembly draws its own projector
    assert next(model.model.world_encoder.parameters()).device == encoder_home
    assert next(model.model.language_model.parameters()).device == devices[0]

    clip = [Image.new("RGB", (48, 48), (20 * frame, 90, 160)) for frame in range(9)]
    inputs = processor(images=[clip], text="<start_of_image>What moves?", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs.to(devices[0])).logits
        expected = reference(**inputs.to("cpu")).logits
    torch.testing.assert_close(logits.cpu(), expected, atol=2e-3, rtol=2e-3)
