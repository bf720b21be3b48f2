"""A checkpoint and an adapter that one release writes, read by another: a script for the environments of both.

Bases, adapter and checkpoint are of toy size; what the model says about one picture and one clip lies beside them.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from theworld_fusion import load_adapter, load_model, load_processor, save_adapter
from theworld_fusion.testing import chat, encode, random_clip, random_picture, tiny_model

TOLERANCE = 1e-5
"""Of logits in float32: one version may add up in another order than the next."""


def write(folder: Path) -> None:
    model, processor = tiny_model(folder / "bases")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("world_projector" in name)
            if parameter.requires_grad:  # as training would: no weight is left as assemble makes it
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    assert any(parameter.requires_grad for parameter in model.parameters()), "no weight of the projector was found"
    save_adapter(model, folder / "adapter")
    model.save_pretrained(folder / "whole")
    processor.save_pretrained(folder / "whole")
    save_file(said(model, processor), folder / "said.safetensors")


def read(folder: Path) -> None:
    expected = load_file(folder / "said.safetensors")
    pairs = {
        "adapter": load_adapter(folder / "adapter"),
        "whole": (load_model(folder / "whole"), load_processor(folder / "whole")),
    }
    for kind, (model, processor) in pairs.items():
        found = said(model, processor)
        for name, wanted in expected.items():
            if found[name].shape != wanted.shape:
                raise SystemExit(f"{kind}: {name} has shape {tuple(found[name].shape)}, it was {tuple(wanted.shape)}")
            distance = (found[name].float() - wanted.float()).abs().max().item()
            if distance > TOLERANCE:
                raise SystemExit(f"{kind}: {name} differs by {distance:.2g} from what the last release computed")
        print(f"{kind}: the same ids and logits for {len(expected) // 2} inputs")


def said(model, processor) -> dict[str, torch.Tensor]:
    """Ids ``[b, l]`` and logits ``[b, l, v]`` for a picture and for a clip."""
    result = dict[str, torch.Tensor]()
    model.eval()
    for name, item in (("picture", random_picture(1)), ("clip", random_clip(2))):
        inputs = encode(processor, [chat(item)])
        with torch.no_grad():
            logits = model(**inputs).logits
        result |= {f"{name} ids": inputs["input_ids"].contiguous(), f"{name} logits": logits.contiguous()}
    return result


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
