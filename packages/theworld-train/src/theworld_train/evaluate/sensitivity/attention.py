"""Where answers look: attention mass on world, image and text tokens, layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from theworld_fusion import TheWorldConfig, TheWorldForConditionalGeneration
from theworld_train.evaluate.sensitivity.likelihood import Features, Prompt

KINDS = ("world", "image", "BOS", "text")
"""World and image spans include their start and end. BOS stands apart: much attention rests there that looks at nothing
(the sink of Xiao et al. 2023, "Efficient streaming language models with attention sinks")."""


@torch.no_grad()
def attention_mass(
    model: TheWorldForConditionalGeneration, prompt: Prompt, features: Features | None
) -> tuple[Float[Tensor, "layers 4"], Float[Tensor, "4"]]:
    """Mean over heads and over the places that foretell the answer, by kind of ``KINDS``; each layer adds up to 1.

    Returns:
        The mass, and the share of visible tokens that are of each kind, which is the mass of attention that looks
        everywhere alike; a layer with a sliding window sees fewer.
    """
    world = {} if features is None else {"world_features": list(features)}
    with _eager(model):
        outputs = model(**prompt.inputs, **world, logits_to_keep=1, output_attentions=True)
    kinds = kinds_of(prompt.inputs["input_ids"][0], model.config)
    member = torch.nn.functional.one_hot(kinds, len(KINDS)).float()
    layers = [
        layer[0][:, prompt.places].float().mean(dim=(0, 1)) @ member.to(layer.device) for layer in outputs.attentions
    ]
    mass = torch.stack([layer.cpu() for layer in layers])
    visible = torch.cumsum(member, dim=0)[prompt.places]
    return mass, (visible / visible.sum(-1, keepdim=True)).mean(0).cpu()


def kinds_of(ids: Int[Tensor, " l"], config: TheWorldConfig) -> Int[Tensor, " l"]:
    """The place in ``KINDS`` of every token of a prompt."""
    image = [config.image_token_id, config.boi_token_index, config.eoi_token_index]
    kinds = torch.full_like(ids, KINDS.index("text"))
    for name, members in (("image", image), ("world", config.world_token_ids)):
        kinds[torch.isin(ids, torch.tensor(members, device=ids.device))] = KINDS.index(name)
    kinds[:1] = KINDS.index("BOS")
    return kinds


@contextmanager
def _eager(model: TheWorldForConditionalGeneration) -> Iterator[None]:
    """Only plain attention gives its weights; afterwards the language model attends as before."""
    language = model.model.language_model
    before = language.config._attn_implementation
    language.set_attn_implementation("eager")
    try:
        yield
    finally:
        language.set_attn_implementation(before)
