"""Clips to a matrix of features: pooled, so that places can be read off linearly, and cut to one width for all.

Letters: ``n`` clips, ``t r s c`` an encoder's feature grid, ``d`` numbers of one clip, ``k`` numbers after the cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from sklearn.decomposition import KernelPCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from theworld_encoders import Encoder, FeatureCache, encoder_key, preprocess
from theworld_encoders.features import encode_pixels
from theworld_encoders.source import source_digest
from theworld_train.data.example import digest
from theworld_train.errors import UsageError
from theworld_train.evaluate.probe.data import ProbeClip

SIDE = 4
"""Each feature frame is averaged to at most ``SIDE`` x ``SIDE`` places: a whole frame's mean would not tell where."""

_PIXELS = 8
"""Pixels of a place along each side, where pixels are the features."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What makes features of frames, and a key that changes when they would."""

    name: str
    key: str
    read: Callable[[Sequence[Image.Image]], Tensor]
    """Frames, oldest first, to ``[t, r, s, c]`` on the CPU."""


def encoder_reader(name: str, encoder: Encoder) -> Reader:
    """The features of ``encoder``, pooled; each clip is encoded alone. Registers, too, count as they are: frozen."""
    encoder.requires_grad_(False).eval()

    def read(frames: Sequence[Image.Image]) -> Tensor:
        return pool(encode_pixels(encoder, preprocess(frames, encoder.spec)).float())

    return Reader(name=name, key=f"{encoder_key(encoder)}-pooled-{SIDE}", read=read)


def pixel_reader(name: str, *, last: bool = False) -> Reader:
    """Raw pixels of all frames or of the last one, 32 x 32: what must be beaten for an encoder to be of use."""

    def read(frames: Sequence[Image.Image]) -> Tensor:
        side = SIDE * _PIXELS
        small = [frame.resize((side, side), Image.Resampling.BOX) for frame in (frames[-1:] if last else frames)]
        values = torch.from_numpy(np.stack([np.asarray(frame) for frame in small])).float() / 255
        return rearrange(values, "t (r p) (s q) c -> t r s (p q c)", p=_PIXELS, q=_PIXELS)

    return Reader(name=name, key=f"pixels-{SIDE}-{_PIXELS}{'-last' if last else ''}", read=read)


def zeros_reader(name: str) -> Reader:
    """Features that say nothing."""
    return Reader(name=name, key="zeros", read=lambda frames: torch.zeros(1, SIDE, SIDE, 16))


def noise_reader(name: str) -> Reader:
    """Gaussian noise, seeded by the clip's pixels: it tells clips apart and says nothing else about them."""

    def read(frames: Sequence[Image.Image]) -> Tensor:
        seed = int.from_bytes(source_digest(frames)[:7])
        return torch.randn(1, SIDE, SIDE, 16, generator=torch.Generator().manual_seed(seed))

    return Reader(name=name, key="noise", read=read)


def pool(features: Float[Tensor, "t r s c"]) -> Float[Tensor, "t g f c"]:
    """Each frame averaged to ``SIDE`` x ``SIDE`` places, or left as it is along a side that has no more."""
    rows, columns = (min(SIDE, side) for side in features.shape[1:3])
    pooled = nn.functional.adaptive_avg_pool2d(rearrange(features, "t r s c -> t c r s"), (rows, columns))
    return rearrange(pooled, "t c g f -> t g f c")


def matrix(
    reader: Reader, clips: Sequence[ProbeClip], folder: str, report: Callable[[int, int], None]
) -> Float[np.ndarray, "n d"]:
    """The features of every clip, a row each; what the cache in ``folder`` has is neither drawn nor encoded.

    Raises:
        EncoderError: the encoder cannot take these clips.
        UsageError: it gives no numbers.
    """
    rows: list[Tensor] = []
    with FeatureCache(folder, reader.key) as cache:
        for clip in clips:
            key = digest(reader.key, clip.key)
            features = cache.get(key)
            if features is None:
                features = reader.read(clip.frames)
                cache.put(key, features)
            rows.append(features.flatten())
            report(len(rows), len(clips))
    features = torch.stack(rows)
    if not features.isfinite().all():
        raise UsageError(f"{reader.name} gives features that are no numbers (inf or nan). Check its weights and dtype.")
    return features.numpy()


def cut(
    train: Float[np.ndarray, "n d"], other: Float[np.ndarray, "o d"], width: int
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "o k"]]:
    """Standardised by the training clips, and cut to their first ``width`` principal components, at one scale for all.

    So a wide encoder has no more numbers to fit with than a narrow one. Components come from the inner products of
    clips (PCA in its dual form), as there are fewer clips than features; nothing of ``other`` enters them.
    """
    scaler = StandardScaler().fit(train)
    train, other = (scaler.transform(values) / np.sqrt(train.shape[1]) for values in (train, other))
    width = min(width, *train.shape)
    pca = KernelPCA(width, kernel="linear", eigen_solver="dense").fit(train)
    return pca.transform(train), pca.transform(other)
