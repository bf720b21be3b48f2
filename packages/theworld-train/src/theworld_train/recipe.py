"""What a training run is, as typed records: the model, its trainable parts stage by stage, the data, the schedule."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from theworld_train.recipe_checks import problems

Packing = Literal["none", "samples", "shared_prefix"]
PartName = Literal["vision_tower", "image_projector", "language_model", "world_encoder", "world_projector"]


class Settings(BaseModel):
    """A section of a recipe: it knows its fields, refuses others, and takes ``true`` for no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSettings(Settings):
    """The pair that is trained; arguments of ``theworld_fusion.assemble``."""

    vlm: str
    """Folder or hub id of a Gemma 3; ``tiny`` makes a toy pair in the run's folder."""
    vlm_revision: str | None = None
    world: str | None = None
    """Folder or hub id of the world model; default: the encoder's published repository."""
    world_revision: str | None = None
    encoder: str = "cosmos-predict2-vae"
    encoder_settings: dict[str, Any] = {}
    frame_size: int | None = None
    num_frames: int = Field(default=13, ge=1)
    """Frames that are taken of a clip file."""
    config: dict[str, Any] = {}
    """Fields of ``TheWorldConfig`` that differ from their defaults."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the frozen weights and of the arithmetic; trained weights are always float32."""
    gradient_checkpointing: bool = False
    liger: bool = False
    """Run Gemma's norms, feed-forward layers and rotary positions by liger-kernel; on accelerators."""
    init_from: str | None = None
    """Folder of an adapter whose weights a new run starts from; to go on with the same run is ``--resume``."""

    @property
    def has_world(self) -> bool:
        """Whether there is a world branch."""
        return self.config.get("world_fusion") != "none"


class LoraSettings(Settings):
    """Low-rank adapters on the linear layers of a part, instead of its own weights (Hu et al., arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] | None = Field(default=None, min_length=1, strict=False)
    """Names of layers, e.g. ``q_proj``; default: all linear ones of the part."""


class PartSettings(Settings):
    """How a part is trained."""

    lr: float | None = Field(default=None, gt=0)
    """Default: the recipe's ``optim.lr``."""
    lora: LoraSettings | None = None


class Source(Settings):
    """One data set of a mixture."""

    weight: float = Field(default=1.0, gt=0)
    """Its share, relative to the other sources'."""
    limit: int | None = Field(default=None, ge=1)
    """Use its first examples only."""


class ChatSource(Source):
    """Conversations, one a row: ``messages`` with text, images and clips; see the documentation's page on data."""

    kind: Literal["chat"]
    path: str
    """JSONL, parquet or Arrow: a file, a folder of such files, or a data set's hub id."""
    split: str = "train"
    """Of a hub id."""
    stream: bool = False
    """Read rows in the order of the files, without an index of them: for what does not fit on the disk."""


class DataCompSource(Source):
    """Web pictures with captions: ``mlfoundations/datacomp_small``, or shards that ``theworld data fetch`` wrote."""

    kind: Literal["datacomp"]
    path: str
    prompt: str = "Describe this image."
    stream: bool = False


class LlavaCc3mSource(Source):
    """``liuhaotian/LLaVA-CC3M-Pretrain-595K``: ``chat.json`` and ``images.zip``."""

    kind: Literal["llava-cc3m"]
    path: str = "liuhaotian/LLaVA-CC3M-Pretrain-595K"


class VsrSource(Source):
    """Visual Spatial Reasoning: is a statement about a picture true? Its pictures are COCO's."""

    kind: Literal["vsr"]
    path: str = "cambridgeltl/vsr_random"
    images: str
    """Folder of COCO's pictures."""
    split: str = "train"


class SpatialRgptSource(Source):
    """SpatialRGPT's OpenSpatial: conversations about regions of a picture."""

    kind: Literal["spatial-rgpt"]
    path: str = "a8cheng/OpenSpatialDataset"
    images: str
    """Folder of OpenImages' pictures."""
    draw_boxes: bool = True


class MicroWorldSource(Source):
    """Made here, from the split ``train``: clips of moving objects, and questions about them."""

    kind: Literal["micro-world"]
    families: tuple[str, ...] = Field(default=(), strict=False)
    """``direction/free`` and the like, or ``direction`` for that question about any scene; default: all."""
    level: Literal["easy", "medium", "hard"] = "easy"
    groups: int = Field(default=16, ge=1)
    """Matched groups of clips for each family."""
    size: int = Field(default=96, ge=32)
    """Side of a frame in pixels."""
    seed: int = Field(default=1, ge=0)


AnySource = Annotated[
    ChatSource | DataCompSource | LlavaCc3mSource | VsrSource | SpatialRgptSource | MicroWorldSource,
    Field(discriminator="kind"),
]


class DataSettings(Settings):
    """What is shown, and in what order."""

    sources: tuple[AnySource, ...] = Field(min_length=1, strict=False)
    shuffle: int = Field(default=1024, ge=1)
    """Rows that are grouped by length at a time, and of a stream also shuffled; 1 keeps the order of the files."""
    holdout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the pictures that evaluation gets and training never sees; chosen by a picture's name or bytes."""
    cache: str | None = None
    """Folder of world features, as ``theworld cache build`` fills it."""
    vision_cache: str | None = None
    """Folder of the vision tower's features, as ``theworld cache build --recipe`` fills it; it may be the same one."""
    max_tokens: int = Field(default=4096, ge=1)
    """Longest conversation, world and image tokens included."""
    on_long: Literal["error", "skip"] = "error"
    on_broken: Literal["error", "skip"] = "error"
    """What becomes of a row whose picture, clip or text cannot be read; skipped ones are counted and listed."""
    workers: int = Field(default=2, ge=0)
    """Processes that prepare batches; 0: the training process itself."""
    remember: int = Field(default=0, ge=0)
    """Rows that each of these keeps in memory, ready for a batch: for small data that are shown many times."""


class StageSettings(Settings):
    """One stretch of training with the same trainable parts and data."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    steps: int = Field(ge=1)
    """Optimiser steps."""
    parts: dict[PartName, PartSettings] = Field(min_length=1)
    data: DataSettings


class BatchSettings(Settings):
    """Of one process; a step sees ``accumulate`` of them on every process."""

    size: int | None = Field(default=None, ge=1)
    """Examples. Give this or ``tokens``."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens at most, padding included; a conversation that has more counts as too long."""
    accumulate: int = Field(default=1, ge=1)
    group_by_length: bool = False
    """Put conversations of about the same length together, within what is shuffled at a time."""
    packing: Packing = "none"
    """Several conversations in one row, each blind to the others: ``samples`` puts whole ones there, ``shared_prefix``
    those about the same pictures under one copy of them, and then the rest as ``samples`` does."""
    row_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a packed row at most, and so of a conversation; default: ``max_tokens`` of the stage's data."""


class OptimSettings(Settings):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    lr: float = Field(default=1e-4, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up; cosine falls to zero at the stage's end."""
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)


class EvalSettings(Settings):
    """Loss and sample answers on what the stage's data hold out."""

    every: int = Field(ge=1)
    """Steps."""
    examples: int = Field(default=64, ge=1)
    samples: int = Field(default=4, ge=0)
    """Answers that are written out each time."""
    max_new_tokens: int = Field(default=32, ge=1)


class SaveSettings(Settings):
    """Checkpoints: what was trained, and what it takes to go on."""

    every: int = Field(default=500, ge=1)
    """Steps; the end of a stage is always saved."""
    keep: int = Field(default=3, ge=1)
    """Newest checkpoints; older ones are removed."""


class LogSettings(Settings):
    """TensorBoard always; others by the project that they log to."""

    every: int = Field(default=10, ge=1)
    wandb: str | None = None
    trackio: str | None = None


class Recipe(Settings):
    """A whole run. A field that would change nothing is refused, so that no recipe says what is not done."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    model: ModelSettings
    stages: tuple[StageSettings, ...] = Field(min_length=1, strict=False)
    batch: BatchSettings
    optim: OptimSettings = OptimSettings()
    eval: EvalSettings | None = None
    save: SaveSettings = SaveSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for problem in problems(self):
            raise ValueError(problem)
        return self
