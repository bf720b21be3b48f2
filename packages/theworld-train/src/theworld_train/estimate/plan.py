"""From one process's step to a cluster's: memory of each process, time of a step, how long a run takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from theworld_train.estimate.count import StepCount
from theworld_train.launch.command import Strategy


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """One device's published numbers: dense bfloat16 TFLOP/s, memory in GB (10^9 bytes), GB/s each way to the host."""

    teraflops: float
    memory: float
    to_host: float


ACCELERATORS: Mapping[str, Accelerator] = {
    "a100": Accelerator(teraflops=312, memory=80, to_host=32),
    "h100": Accelerator(teraflops=989, memory=80, to_host=64),
    "h200": Accelerator(teraflops=989, memory=141, to_host=64),
    "b200": Accelerator(teraflops=2250, memory=180, to_host=64),
}
"""NVIDIA's data sheets of the SXM modules, without sparsity; to the host, 16 lanes of PCIe 4 (A100) or 5."""


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
    """On its device."""
    compute: float
    """Seconds of arithmetic."""
    communication: float
    """Seconds of sending, if none of it were hidden behind arithmetic."""
    examples: int
    """Of all processes in a step, accumulation included."""
    host_memory: dict[str, float] = field(default_factory=dict)
    """What rests in the machine's memory instead, pinned."""
    to_device: float = 0.0
    to_host: float = 0.0
    """Seconds of copies from there and to there; both ways are open at once."""

    @property
    def total_memory(self) -> float:
        return sum(self.memory.values())

    @property
    def seconds(self) -> tuple[float, float]:
        """Of a step: all of the sending and copying hidden, and none of it. Updates on the CPU are not in it."""
        parts = self.compute, self.communication, self.to_device, self.to_host
        return max(parts), sum(parts)


def plan(count: StepCount, cluster: Cluster, *, accumulate: int = 1) -> Plan:
    """What ``cluster`` makes of a step of the optimiser, which has ``accumulate`` batches on every process."""
    memory, host_memory = _memory(count, cluster)
    to_device, to_host = _copied(count, cluster, accumulate)
    link = ACCELERATORS[cluster.device].to_host * 1e9
    return Plan(
        memory=memory,
        host_memory=host_memory,
        compute=count.total_flops * accumulate / (ACCELERATORS[cluster.device].teraflops * 1e12 * cluster.utilisation),
        communication=_sent(count, cluster, accumulate) / (cluster.bandwidth * 1e9),
        to_device=to_device / link,
        to_host=to_host / link,
        examples=count.examples * accumulate * cluster.gpus,
    )


def _memory(count: StepCount, cluster: Cluster) -> tuple[dict[str, float], dict[str, float]]:
    """Of the device and of the host. Trained weights, their gradients and AdamW's two moments are float32."""
    weights, gradients, moments = sum(count.weights.values()), 4 * count.trained, 8 * count.trained
    found: dict[str, float] = {"weights": weights, "gradients": gradients, "moments": moments}
    rests: dict[str, float] = {}
    if cluster.strategy == "ddp" and cluster.gpus > 1:
        found["DDP's buckets"] = gradients  # torch's DDP keeps its own copy to reduce
    elif cluster.strategy != "ddp":
        found = {"weights, whole": weights - count.dealt}
        shares = {
            "weights, this share": count.dealt / cluster.gpus,
            "gradients, this share": gradients / cluster.gpus,
            "moments, this share": moments / cluster.gpus,
        }
        if cluster.strategy == "fsdp2_offload":
            rests = shares
            found["a layer's share on its way"] = count.largest_dealt / cluster.gpus
        else:
            # The root's share of gradients comes when activations and layers are gone.
            found |= shares | {"gradients, this share": (gradients - count.root_gradients) / cluster.gpus}
        found["gathered"] = count.root + 2 * count.largest_unit  # one layer computes while the next one arrives
        found["gradients, not summed yet"] = count.root_gradients + count.unit_gradients
        # Last of all the root's are summed, from a copy into a share.
        last = count.root + count.root_gradients * (2 + 1 / cluster.gpus)
        if (more := last - found["gathered"] - found["gradients, not summed yet"] - count.activations) > 0:
            found["the last sum"] = more
    return {**found, "activations": float(count.activations)}, rests


def _copied(count: StepCount, cluster: Cluster, accumulate: int) -> tuple[float, float]:
    """Bytes that come to a device in a step, and that go: its share of layers twice, of the root once; of gradients."""
    if cluster.strategy != "fsdp2_offload":
        return 0, 0
    share = accumulate / cluster.gpus
    return (2 * count.dealt - count.root) * share, 4 * count.trained * share


def _sent(count: StepCount, cluster: Cluster, accumulate: int) -> float:
    """Bytes that a process sends in a step, by ring algorithms (each byte goes to all but one process).

    DDP reduces gradients: twice their size (Rabenseifner 2004). FSDP gathers layers forwards and backwards, the root
    once, and scatters sums of gradients, for each batch (Zhao et al., arXiv 2304.11277).
    """
    ring = (cluster.gpus - 1) / cluster.gpus
    gradients = 4 * count.trained
    if cluster.strategy == "ddp":
        return 2 * gradients * ring
    return (2 * count.gathered - count.root + gradients) * accumulate * ring
