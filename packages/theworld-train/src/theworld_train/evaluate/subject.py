"""Whom an evaluation asks: a checkpoint, an adapter on its bases, or a base VLM."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma3ForConditionalGeneration

from theworld_fusion import TheWorldProcessor
from theworld_fusion.assemble import load_vlm
from theworld_fusion.checkpoint import check_loading
from theworld_train.evaluate.facts import checkpoint_facts, recipe_of
from theworld_train.trained import checkpoint_of, open_trained


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with its processor, and who it is.

    Attributes:
        source: where it was found; a copy elsewhere is the same model.
        facts: the SHA-256 of its files, or its name on the hub, and the recipe that trained it.
    """

    model: Any
    processor: TheWorldProcessor
    source: str
    facts: dict[str, Any]


def load_subject(model: str | None, vlm: str | None, *, dtype: str | None, device: torch.device) -> Subject:
    """What is to be evaluated, on ``device``.

    Args:
        model: a run, a whole checkpoint or an adapter, or ``None``.
        vlm: a Gemma 3 VLM, where there is no ``model``: it has no world branch, and is the baseline.
        dtype: number type; default: bfloat16 on an accelerator, float32 on a CPU.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    kind = getattr(torch, dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    where: dict[str, Any] = {"dtype": kind, "device_map": {"": str(device)}}
    source = str(vlm) if model is None else checkpoint_of(model)
    facts = checkpoint_facts(source) | {"recipe": recipe_of(source)}
    if model is None:
        return Subject(model=_load_vlm(source, where), processor=vlm_processor(source), source=source, facts=facts)
    processor, load = open_trained(source, **where)
    return Subject(model=load(), processor=processor, source=source, facts=facts)


def vlm_processor(vlm: str | Path) -> TheWorldProcessor:
    """A base VLM's own processor, which reads clips too: of them it sees the last frame."""
    _, base = load_vlm(vlm)
    template: Any = base.chat_template
    return TheWorldProcessor(
        base.image_processor,
        base.tokenizer,
        chat_template=template,
        image_seq_length=base.image_seq_length,
        world_fusion="none",
    )


def _load_vlm(vlm: str, where: dict[str, Any]) -> Any:
    load: Any = Gemma3ForConditionalGeneration.from_pretrained
    load_vlm(vlm)  # says in one line what else it may be
    loaded, info = load(vlm, output_loading_info=True, **where)
    check_loading(vlm, info)
    return loaded
