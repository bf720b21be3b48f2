"""The training loss beside transformers' own, at Gemma's vocabulary: `python benchmarks/loss.py`; needs 8 GB.

Both take the same hidden states and the same frozen head, forwards and backwards. Memory is how much the peak resident
set of a process of its own grows; times are medians of processor time, taken in turn in one process and one thread.
What is printed is one JSON object for each number of labels, with the ratios transformers / ours.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import transformers
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from theworld_fusion.loss import CHUNK, supervised_loss
from theworld_tokens import IGNORE_INDEX

VOCABULARY, WIDTH, LENGTH = 262_208, 2560, 1100
"""Gemma-3-4B, and a prompt of 784 world, 256 image and 60 text tokens."""

SEED = 0


def problem(labelled: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, nn.Linear]:
    """Hidden states of one sample, its labels (the last ones) and a frozen head."""
    torch.manual_seed(SEED)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False, device="meta", dtype=dtype).to_empty(device="cpu")
    nn.init.normal_(head.weight, std=0.02)
    labels = torch.randint(VOCABULARY, (1, LENGTH))
    labels[:, : LENGTH - labelled] = IGNORE_INDEX
    return torch.randn(1, LENGTH, WIDTH).to(dtype).requires_grad_(), labels, head.requires_grad_(False)


def all_logits(hidden: Tensor, labels: Tensor, head: nn.Linear) -> Tensor:
    return ForCausalLMLoss(head(hidden), labels, head.out_features)


def arms(chunk: int) -> dict[str, Callable[..., Tensor]]:
    return {"transformers": all_logits, "ours": partial(supervised_loss, chunk=chunk)}


def run(arm: Callable[..., Tensor], hidden: Tensor, labels: Tensor, head: nn.Linear) -> tuple[float, float, float]:
    """Loss, norm of the gradient, and seconds of processor time."""
    hidden.grad = None
    start = time.process_time()
    loss = arm(hidden, labels, head)
    loss.backward()
    seconds = time.process_time() - start
    assert hidden.grad is not None
    return loss.item(), hidden.grad.float().norm().item(), seconds


def peak_megabytes(name: str, chunk: int, labelled: int, dtype: torch.dtype) -> float:
    """By how much the peak of this process grows."""
    torch.set_num_threads(1)
    arm, arguments = arms(chunk)[name], problem(labelled, dtype)
    # What libraries set up once is not the loss's.
    small = torch.ones(1, 4, WIDTH, dtype=dtype, requires_grad=True)
    run(arm, small, torch.ones(1, 4, dtype=torch.long), nn.Linear(WIDTH, 64, dtype=dtype))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(arm, *arguments)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000


def peaks_megabytes(chunk: int, labelled: int, dtype: torch.dtype) -> dict[str, float]:
    """Of both, in processes of their own. Each inherits this one's peak, which has to be small still."""
    peaks = {}
    for name in arms(chunk):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[name] = pool.apply(peak_megabytes, (name, chunk, labelled, dtype))
    return peaks


def measure(peaks: dict[str, float], labelled: int, chunk: int, dtype: torch.dtype, repeats: int) -> dict:
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in peaks}
    for _ in range(repeats):
        for name, arm in arms(chunk).items():
            results[name].append(run(arm, *problem(labelled, dtype)))
    return report(peaks, results) | {"labelled": labelled, "chunk": chunk}


def report(peaks: dict[str, float], results: dict[str, list[tuple[float, float, float]]]) -> dict:
    losses, norms = ({name: runs[0][column] for name, runs in results.items()} for column in (0, 1))
    times = {name: [seconds for *_, seconds in runs] for name, runs in results.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "name": "loss.peak_ratio",
        "value": {name: round(peak) for name, peak in peaks.items()},
        "unit": "MB",
        "ratio": round(peaks["transformers"] / peaks["ours"], 1),
        "seconds": {
            name: [round(value, 2) for value in (min(times[name]), medians[name], max(times[name]))] for name in times
        },
        "time_ratio": round(medians["transformers"] / medians["ours"], 2),
        "loss": {name: round(value, 5) for name, value in losses.items()},
        "gradient_norm": {name: round(value, 7) for name, value in norms.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labelled", type=int, nargs="+", default=[32, 316, LENGTH - 1])
    parser.add_argument("--chunk", type=int, default=CHUNK)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "device": platform.processor() or platform.machine(),
        "dtype": options.dtype,
        "geometry": {"vocabulary": VOCABULARY, "width": WIDTH, "length": LENGTH},
        "seed": SEED,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    settings = (options.chunk, getattr(torch, options.dtype))
    peaks = {labelled: peaks_megabytes(settings[0], labelled, settings[1]) for labelled in options.labelled}
    for labelled in options.labelled:
        row = measure(peaks[labelled], labelled, *settings, options.repeats)
        print(json.dumps({**row, **about}), flush=True)


if __name__ == "__main__":
    main()
