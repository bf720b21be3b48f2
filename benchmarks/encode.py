"""How long the VAE encoders take against diffusers' own, measured side by side: `python benchmarks/encode.py`.

Both have the same random weights at the published size and do the same work in turn, in one process and one thread;
what is printed is the ratio of their median processor times, with the largest difference of their features. diffusers'
side includes neither preprocessing nor standardisation, ours includes the latter.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from theworld_encoders.registry import encoder_class
from theworld_encoders.vae import VaeEncoder

NAMES = ("cosmos-predict2-vae", "wan22-vae", "cosmos1-tokenizer")


def pair(name: str, dtype: torch.dtype) -> tuple[VaeEncoder, torch.nn.Module]:
    """Our encoder and diffusers' whole autoencoder, one set of weights."""
    ours = encoder_class(name).from_config({})
    assert isinstance(ours, VaeEncoder)
    with torch.device("meta"):
        theirs = ours.diffusers_class()(**ours.config)
    theirs.decoder = None
    theirs.encoder.to_empty(device="cpu").load_state_dict(ours.encoder.state_dict())
    theirs.quant_conv.to_empty(device="cpu").load_state_dict(ours.quant_conv.state_dict())
    for buffer, value in zip(theirs.encoder.buffers(), ours.encoder.buffers(), strict=True):
        buffer.copy_(value)
    theirs.encoder.to(dtype)
    theirs.quant_conv.to(dtype)
    return ours.to(dtype), theirs.eval().requires_grad_(False)


@torch.no_grad()
def reference(vae: torch.nn.Module, video: Tensor) -> Tensor:
    return vae.encode(video, return_dict=False)[0].mode()


def seconds(work: Callable[[], Tensor]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(
    ours: VaeEncoder, theirs: torch.nn.Module, frames: int, size: int, dtype: torch.dtype, repeats: int
) -> dict:
    frames = ours.spec.fit_frames(frames)
    pixels = torch.rand(1, frames, 3, size, size, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(dtype)
    arms = {"ours": partial(ours, pixels), "diffusers": partial(reference, theirs, pixels.transpose(1, 2).contiguous())}
    difference = (arms["ours"]() - ours.standardise(arms["diffusers"]())).abs().max().item()  # and both are warm
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(repeats):
        for arm, work in arms.items():
            times[arm].append(seconds(work))
    medians = {arm: statistics.median(values) for arm, values in times.items()}
    return {
        "encoder": ours.spec.name,
        "frames": frames,
        "size": size,
        "dtype": str(dtype).removeprefix("torch."),
        "diffusers_s": round(medians["diffusers"], 3),
        "ours_s": round(medians["ours"], 3),
        "ratio": round(medians["diffusers"] / medians["ours"], 2),
        "max_difference": float(f"{difference:.1e}"),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels, a multiple of 16")
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 9])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--encoders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in options.encoders:
        dtype = getattr(torch, options.dtype)
        ours, theirs = pair(name, dtype)
        for frames in options.frames:
            row = measure(ours, theirs, frames, options.size, dtype, options.repeats)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
