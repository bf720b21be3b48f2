"""`worker.py FOLDER PLACEMENT`, under accelerate's launcher: a placed model does what it does on one CPU in float32.

FOLDER has the model and its processor, saved whole. Inputs lie on the CPU, wherever the model is.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from theworld_fusion import load_model, load_processor
from theworld_fusion.testing import chat, encode, random_clip, random_picture

STEPS = 3


def homes(model: Any, part: str) -> set[str]:
    """Devices that the weights of a part rest on; ``meta`` is what accelerate shows of the CPU and the disk."""
    return {str(one.device) for name, one in model.named_parameters() if name.startswith(part)}


def train(model: Any, inputs: dict[str, Tensor]) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Losses and gradients of some steps of the world projector."""
    projector = model.requires_grad_(False).model.world_projector.requires_grad_(True)
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.05)
    losses, gradients = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model.train()(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        gradients.append({name: one.grad.cpu().clone() for name, one in projector.named_parameters()})
    model.eval()
    return losses, gradients


def main(folder: Path, placement: str) -> None:
    torch.backends.cudnn.allow_tf32 = False  # else convolutions differ from the CPU's in the third digit
    placed: Any = load_model(folder, dtype=torch.float32, device_map=placement)
    plain: Any = load_model(folder, dtype=torch.float32)
    on_cpu = not torch.accelerator.is_available()
    encoder, language = homes(placed, "model.world_encoder."), homes(placed, "model.language_model.")
    if placement == "split":
        assert encoder
        assert language
        assert not encoder & language
        assert set(placed.hf_device_map.values()) >= ({"cpu", "disk"} if on_cpu else {0})
    else:
        assert encoder == language == ({"cpu"} if on_cpu else {f"{torch.accelerator.current_accelerator()}:0"})

    inputs = dict(encode(load_processor(folder), [chat(random_clip(1), random_picture(2))]))
    tolerance = {"atol": 0.0, "rtol": 0.0} if on_cpu else {"atol": 2e-3, "rtol": 2e-3}
    with torch.no_grad():
        torch.testing.assert_close(placed(**inputs).logits.cpu(), plain(**inputs).logits, **tolerance)
    first, second = (model.generate(**inputs, max_new_tokens=4, do_sample=False).cpu() for model in (placed, plain))
    assert torch.equal(first, second)

    (losses, gradients), (wanted, like) = train(placed, inputs), train(plain, inputs)
    assert wanted[-1] < wanted[0]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(wanted), **tolerance)
    torch.testing.assert_close(gradients, like, **tolerance)

    placed.save_pretrained(folder / "trained")
    elsewhere: Any = load_model(folder / "trained", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(elsewhere(**inputs).logits, plain(**inputs).logits, **tolerance)
    plain.save_pretrained(folder / "plain")
    back: Any = load_model(folder / "plain", dtype=torch.float32, device_map=placement)
    with torch.no_grad():
        torch.testing.assert_close(back(**inputs).logits.cpu(), plain(**inputs).logits, **tolerance)
    sys.stdout.write(f"{placement}: encoder on {sorted(encoder)}, language model on {sorted(language)}: agrees\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
