"""Every number about an encoder, and no weights: enough to preprocess in a data worker and to count tokens."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """What an encoder takes and gives. Sizes in pixels and frames; licences as the publisher states them."""

    name: str
    """Registry name, e.g. ``cosmos-predict2-vae``."""
    kind: Literal["vision", "world"]
    """``world`` encoders see motion (several frames at once); ``vision`` encoders see each frame alone."""
    width: int
    """Channels of one feature, ``c``."""
    frame_size: int
    """Height and width that frames are resized to, in pixels."""
    spatial_stride: int
    """Pixels per feature along each side."""
    drops_edges: bool = False
    """Whether pixels beyond the last whole stride are left out, not refused: SigLIP's 384 are 27 * 14, and 6 more."""
    temporal_stride: int
    """Frames per feature in time."""
    first_frame_alone: bool = True
    """The causal rule of ``1 + stride * n`` frames, where the first has a feature of its own; else ``stride * n``."""
    future_frames: int = 0
    """Feature frames that are predicted beyond the clip; they come last."""
    predicts_future: bool = False
    """Whether it can predict any, as many as its setting ``num_future_frames`` says."""
    pixel_mean: float | tuple[float, float, float] = 0.5
    """Subtracted from pixels in [0, 1]; one number, or one for each of red, green and blue."""
    pixel_std: float | tuple[float, float, float] = 0.5
    """Divides what remains; 0.5 and 0.5 give [-1, 1]."""
    resize: Literal["squash", "crop", "letterbox"] = "squash"
    """How a frame becomes a square: without regard to its aspect, its centre, or all of it between black bars."""
    resample: Literal["lanczos", "bicubic", "bilinear"] = "lanczos"
    """Pillow's filter of that name."""
    repo_id: str
    """Where the published weights are."""
    revision: str
    """The revision that was read when this was written."""
    subfolder: str
    """Folder of the component inside the repository; empty where it lies at the top."""
    licence: str
    gated: bool
    """Whether the hub asks to accept terms before the download."""

    def feature_frames(self, t: int) -> int:
        """Feature frames ``t'`` of a clip of ``t`` frames, after it was fitted to the frame rule."""
        alone = int(self.first_frame_alone)
        return alone + (self.fit_frames(t) - alone) // self.temporal_stride + self.future_frames

    def most_frames(self, feature_frames: int) -> int:
        """The longest clip that has that many feature frames."""
        alone = int(self.first_frame_alone)
        return alone + (feature_frames - self.future_frames - alone) * self.temporal_stride

    @property
    def frame_rule(self) -> str:
        """The lengths that obey it, for people."""
        return f"{'1 + ' if self.first_frame_alone else ''}{self.temporal_stride} * n frames"

    def fit_frames(self, t: int) -> int:
        """The smallest length of at least ``t`` frames that obeys the frame rule.

        Raises:
            ValueError: ``t`` is below one.
        """
        if t < 1:
            raise ValueError(f"a clip of {t} frames is empty. Give at least one frame.")
        alone = int(self.first_frame_alone)
        return alone + -(-(t - alone) // self.temporal_stride) * self.temporal_stride

    def grid(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """Feature grid ``(t', r, s)`` of a clip of ``t`` frames of ``h`` x ``w`` pixels.

        Raises:
            ValueError: a side is no multiple of the spatial stride, or below one; or ``t`` is.
        """
        whole = self.drops_edges or not (h % self.spatial_stride or w % self.spatial_stride)
        if not whole or min(h, w) < self.spatial_stride:
            rule = (
                f"of at least {self.spatial_stride}"
                if self.drops_edges
                else f"that are multiples of {self.spatial_stride}"
            )
            raise ValueError(f"{self.name} cannot encode frames of {h} x {w} pixels. Use sides {rule}.")
        return self.feature_frames(t), h // self.spatial_stride, w // self.spatial_stride

    def num_tokens(self, t: int, h: int, w: int) -> int:
        """Features of one clip, ``t' * r * s``."""
        frames, rows, columns = self.grid(t, h, w)
        return frames * rows * columns
