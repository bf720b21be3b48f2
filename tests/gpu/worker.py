"""One process of `test_one_process_per_device`: `worker.py CHECKPOINT_FOLDER DEVICE_TYPE`, under torchrun."""

import os
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_fusion.testing import TINY_WORLD


def inputs_of(processor: TheWorldProcessor, rank: int) -> dict[str, Tensor]:
    """A prompt with a clip that no other rank has."""
    clip = [Image.new("RGB", (48, 48), (25 * frame, 60 * rank % 256, 120)) for frame in range(9)]
    inputs = processor(images=[clip], text="<start_of_image>What moves?", return_tensors="pt")
    return {**inputs, "labels": inputs["input_ids"]}


def projector_gradients(model: TheWorldForConditionalGeneration) -> dict[str, Tensor]:
    parameters = model.model.world_projector.named_parameters()
    return {name: value.grad.cpu().clone() for name, value in parameters if value.grad is not None}


def main(folder: Path, device_type: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device(device_type, int(os.environ["LOCAL_RANK"])) if device_type != "cpu" else torch.device("cpu")
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index)
    torch.backends.cudnn.allow_tf32 = False  # else convolutions differ from the CPU's in the third digit
    distributed.init_process_group(distributed.get_default_backend_for_device(device))

    torch.manual_seed(0)  # every process draws the same projector
    model, processor = assemble(folder / "vlm", folder / "world", **TINY_WORLD)
    model.requires_grad_(False)
    model.model.world_projector.requires_grad_(True)

    logits, gradients = [], []
    for other in range(world_size):
        model.zero_grad()
        outputs = model(**inputs_of(processor, other))
        outputs.loss.backward()
        logits.append(outputs.logits.detach())
        gradients.append(projector_gradients(model))

    model.zero_grad()
    replica = DistributedDataParallel(model.to(device), device_ids=None if device.type == "cpu" else [device])
    outputs = replica(**{name: value.to(device) for name, value in inputs_of(processor, rank).items()})
    torch.testing.assert_close(outputs.logits.detach().cpu(), logits[rank], atol=2e-3, rtol=2e-3)
    outputs.loss.backward()
    averaged = {name: torch.stack([each[name] for each in gradients]).mean(0) for name in gradients[0]}
    torch.testing.assert_close(projector_gradients(model), averaged, atol=1e-4, rtol=1e-3)
    sys.stdout.write(f"{device} of rank {rank} agrees\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
