"""From one process's step to a cluster's: memory of each process, time of a step, how long a run takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from theworld_train.estimate.count import StepCount

Strategy = Literal["ddp", "fsdp2"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """One device's published numbers: dense bfloat16 TFLOP/s, and memory in GB (10^9 bytes)."""

    teraflops: float
    memory: float


ACCELERATORS: Mapping[str, Accelerator] = {
    "a100": Accelerator(teraflops=312, memory=80),
    "h100": Accelerator(teraflops=989, memory=80),
    "h200": Accelerator(teraflops=989, memory=141),
    "b200": Accelerator(teraflops=2250, memory=180),
}
"""NVIDIA's data sheets of the SXM modules, without sparsity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a run is given.

    Attributes:
        utilisation: share of the device's peak that a step reaches, 0 to 1. An eager Gemma 3 with frozen weights can
            reach about 0.31 on an H100, fused kernels about 0.6.
        bandwidth: bytes that a process sends each second, in GB/s; 50 is one 400 Gb/s adapter for each device.
    """

    gpus: int = 1
    device: str = "h100"
    strategy: Strategy = "ddp"
    utilisation: float = 0.3
    bandwidth: float = 50.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Bytes of one process, by what they are for, and seconds of one step."""

    memory: dict[str, float]
    compute: float
    """Seconds of arithmetic."""
    communication: float
    """Seconds of sending, if none of it were hidden behind arithmetic."""
    examples: int
    """Of all processes in a step, accumulation included."""

    @property
    def total_memory(self) -> float:
        return sum(self.memory.values())

    @property
    def seconds(self) -> tuple[float, float]:
        """Of a step: all of the sending hidden, and none of it."""
        return max(self.compute, self.communication), self.compute + self.communication


def plan(count: StepCount, cluster: Cluster, *, accumulate: int = 1) -> Plan:
    """What ``cluster`` makes of a step of the optimiser, which has ``accumulate`` batches on every process."""
    memory = _memory(count, cluster)
    return Plan(
        memory=memory,
        compute=count.total_flops * accumulate / (ACCELERATORS[cluster.device].teraflops * 1e12 * cluster.utilisation),
        communication=_sent(count, cluster, accumulate) / (cluster.bandwidth * 1e9),
        examples=count.examples * accumulate * cluster.gpus,
    )


def _memory(count: StepCount, cluster: Cluster) -> dict[str, float]:
    """Trained weights are float32, and so are their gradients and AdamW's two moments."""
    weights, gradients, moments = sum(count.weights.values()), 4 * count.trained, 8 * count.trained
    if cluster.gpus == 1:
        found = {"weights": weights, "gradients": gradients, "moments": moments}
    elif cluster.strategy == "ddp":
        buckets = gradients  # torch's DDP keeps its own copy to reduce
        found = {"weights": weights, "gradients": gradients, "moments": moments, "DDP's buckets": buckets}
    else:
        whole = weights - count.dealt
        gathered = count.root + 2 * count.largest_unit  # one layer computes while the next one arrives
        waiting = count.root_gradients + count.unit_gradients
        found = {
            "weights, whole": whole,
            "weights, this share": count.dealt / cluster.gpus,
            "gradients, this share": (gradients - count.root_gradients) / cluster.gpus,
            "moments, this share": moments / cluster.gpus,
            "gathered": gathered,
            "gradients, not summed yet": waiting,
        }
        # Last of all the root's are summed, from a copy into a share, when activations and layers are gone.
        last = count.root + count.root_gradients * (2 + 1 / cluster.gpus)
        if (more := last - gathered - waiting - count.activations) > 0:
            found["the last sum"] = more
    return {**found, "activations": float(count.activations)}


def _sent(count: StepCount, cluster: Cluster, accumulate: int) -> float:
    """Bytes that a process sends in a step, by ring algorithms (each byte goes to all but one process).

    DDP reduces gradients: twice their size (Rabenseifner 2004). FSDP gathers weights forwards and backwards, and
    scatters sums of gradients, for each batch (Zhao et al., arXiv 2304.11277).
    """
    ring = (cluster.gpus - 1) / cluster.gpus
    gradients = 4 * count.trained
    if cluster.strategy == "ddp":
        return 2 * gradients * ring
    return (2 * count.gathered + gradients) * accumulate * ring
