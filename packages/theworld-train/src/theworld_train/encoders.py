"""What each encoder gives and costs, from its spec and its configuration: no weights are read."""

from dataclasses import asdict, dataclass

import torch

from theworld_encoders import EncoderError, list_controls, list_encoders, spec_of
from theworld_encoders.controls import CONTROLS
from theworld_encoders.registry import encoder_class

CLIP_FRAMES = 9


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """One encoder. Tokens are features of one item, before a model resamples them to its own budget."""

    name: str
    kind: str
    width: int
    frame_size: int
    spatial_stride: int
    temporal_stride: int
    image_tokens: int
    clip_tokens: int
    """Of a clip of ``CLIP_FRAMES`` frames."""
    parameters: int | None
    """``None`` where the library that builds it is not installed."""
    repo_id: str
    licence: str
    gated: bool

    @property
    def megabytes(self) -> float | None:
        """Of its weights, in bfloat16."""
        return None if self.parameters is None else self.parameters * torch.bfloat16.itemsize / 1e6


def encoder_facts(name: str) -> EncoderFacts:
    """One encoder's facts.

    Raises:
        EncoderError: the name is unknown, or its plug-in is broken.
    """
    spec = spec_of(name)
    size = spec.frame_size
    return EncoderFacts(
        name=spec.name,
        kind=spec.kind,
        width=spec.width,
        frame_size=size,
        spatial_stride=spec.spatial_stride,
        temporal_stride=spec.temporal_stride,
        image_tokens=spec.num_tokens(1, size, size),
        clip_tokens=spec.num_tokens(CLIP_FRAMES, size, size),
        parameters=_parameters(name),
        repo_id=spec.repo_id,
        licence=spec.licence,
        gated=spec.gated,
    )


def all_encoders() -> tuple[list[EncoderFacts], list[str]]:
    """Facts of every encoder, and what is wrong with those plug-ins that are broken."""
    facts, problems = list[EncoderFacts](), list[str]()
    for name in list_encoders():
        try:
            facts.append(encoder_facts(name))
        except EncoderError as error:
            problems.append(str(error))
    return facts, problems


def all_controls() -> dict[str, str]:
    """Every control and what it does, in a sentence."""
    return {name: " ".join((CONTROLS[name].__doc__ or "").partition("\n\n")[0].split()) for name in list_controls()}


def as_json(facts: list[EncoderFacts]) -> dict[str, object]:
    """Plain values of everything that is shown."""
    return {
        "encoders": [{**asdict(one), "megabytes_bfloat16": one.megabytes} for one in facts],
        "controls": all_controls(),
    }


def _parameters(name: str) -> int | None:
    try:
        with torch.device("meta"):
            encoder = encoder_class(name).from_config({})
    except (EncoderError, ImportError):  # its library is not installed
        return None
    return sum(parameter.numel() for parameter in encoder.parameters())
