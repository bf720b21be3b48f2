# pyright: reportAttributeAccessIssue=false
# peft's methods are transformers' own only where peft is installed.
"""Low-rank adapters on the linear layers of one part; peft's, one adapter per part, named as the part."""

import warnings
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from torch import nn

from theworld_train.errors import UsageError
from theworld_train.parts import part_of
from theworld_train.recipe import LoraSettings, PartName, Recipe

_NO_PEFT = 'parts.{}.lora needs peft. Install it: pip install "theworld-train[lora]"'


def is_lora(name: str) -> bool:
    """Whether a parameter is an adapter's, by its name."""
    return ".lora_" in name


def check_peft(recipe: Recipe) -> None:
    """See before training that a later stage will not miss what it needs.

    Raises:
        UsageError: a part of a stage is to have low-rank adapters, and peft is not installed.
    """
    for stage in recipe.stages:
        for part, settings in stage.parts.items():
            if settings.lora is not None and find_spec("peft") is None:
                raise UsageError(_NO_PEFT.format(part))


def attach_lora(model: Any, part: PartName, settings: LoraSettings) -> None:
    """Put low-rank layers beside the part's linear ones, unless they are there already. All adapters are active after.

    Raises:
        UsageError: peft is missing, a target is no linear layer of the part, or there is another adapter already.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UsageError(_NO_PEFT.format(part)) from error
    there: dict[str, Any] = getattr(model, "peft_config", {})
    if part in there:
        known = there[part]
        if (known.r, known.lora_alpha, known.lora_dropout) != (settings.rank, settings.alpha, settings.dropout):
            raise UsageError(
                f"{part} has LoRA layers of rank {known.r}, alpha {known.lora_alpha} and dropout {known.lora_dropout}; "
                f"parts.{part}.lora asks for {settings.rank}, {settings.alpha} and {settings.dropout}. Ask for those."
            )
        return
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType] - a number; peft only divides it
        lora_dropout=settings.dropout,
        target_modules=targets(model, part, settings),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        model.add_adapter(config, adapter_name=part)
    model.set_adapter(list(model.peft_config))


def targets(model: Any, part: PartName, settings: LoraSettings) -> list[str]:
    """Full names of the part's linear layers that are meant; the language model's head is none of them.

    Raises:
        UsageError: a target is no linear layer of the part, or it has none at all.
    """
    head = model.get_output_embeddings()  # mostly the embeddings' own weight
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and part_of(name) == part
    ]
    if not linear:
        raise UsageError(f"{part} has no linear layers for parts.{part}.lora. Leave lora out: all of it is trained.")
    if settings.targets is None:
        return linear
    found: list[str] = []
    for target in settings.targets:
        meant = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not meant:
            known = sorted({name.rpartition(".")[2] for name in linear})
            near = get_close_matches(target, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(known)}."
            raise UsageError(f"parts.{part}.lora.targets has {target!r}, no linear layer of {part}. {hint}")
        found += meant
    return sorted(set(found))


def merge_lora(model: Any) -> None:
    """Add every LoRA to its layer's own weights and leave plain layers, in the dtype that they have."""
    if not getattr(model, "peft_config", None):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in [(name, one) for name, one in model.named_modules() if isinstance(one, BaseTunerLayer)]:
        layer.merge(safe_merge=True)
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False
