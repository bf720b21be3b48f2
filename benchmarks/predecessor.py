# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
"""The algorithm before this project, in our words and on our model's weights: what its times are compared with.

Per call, diffusers' VAE encodes the frame as a clip; image features are scattered by a mask whose count is read back;
where the markers stand is asked of the device, and the sequence is cut there and joined anew around the world tokens;
the head gives logits everywhere, and the loss is taken of all of them, shifted and in float32. Decoding is a Python
loop that reads every token back. It is given what it did not have, right labels and masks, so that both compute the
same thing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import Gemma3Model
from transformers.cache_utils import DynamicCache
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3MultiModalProjector,
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)

from benchmarks.models import IDS, WORLD, picture
from theworld_encoders.vae import VaeEncoder
from theworld_fusion import TheWorldForConditionalGeneration


class Predecessor:
    """``model`` gives weights, projector and configuration; the VAE is diffusers' own, on the same weights."""

    def __init__(self, model: TheWorldForConditionalGeneration) -> None:
        self.model, self.vae = model, diffusers_vae(model.model.world_encoder)

    def embed(self, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Embeddings of the prompt with its image and world tokens, and masks for them."""
        model = self.model.model
        ids, mask, types = (_without_world(inputs[name]) for name in ("input_ids", "attention_mask", "token_type_ids"))
        embeds = model.get_input_embeddings()(ids)
        patches = model.vision_tower(inputs["pixel_values"]).last_hidden_state
        image = Gemma3MultiModalProjector.forward(model.multi_modal_projector, patches).to(embeds.dtype)
        embeds = embeds.masked_scatter(self.image_places(ids, embeds, image), image)
        with torch.no_grad():
            latents = self.vae.encode(rearrange(inputs["pixel_values_world"], "m t c h w -> m c t h w"))
            world_features = model.world_encoder.standardise(latents.latent_dist.mode())
        world = model.world_projector(world_features)
        start, end = self.markers(ids)
        sow, eow = model.world_projector.boundaries().unsqueeze(1).unsqueeze(1).expand(-1, len(ids), -1, -1)
        joined = torch.cat([embeds[:, :start], sow, world, eow, embeds[:, end + 1 :]], dim=1)
        ones = mask.new_ones(len(ids), WORLD)
        whole = torch.cat([mask[:, : start + 1], ones, mask[:, end:]], dim=1)
        kinds = torch.cat([types[:, : start + 1], ones, types[:, end:]], dim=1)
        return joined, {"attention_mask": whole, "token_type_ids": kinds}

    def markers(self, ids: Tensor) -> tuple[int, int]:
        """Where the world's span begins and ends, in every row as in the first."""
        if not (ids == IDS.sow).any():
            raise ValueError("the prompt has no start of world. Build it with one.")
        start, end = ((ids == marker).nonzero()[0, 1].item() for marker in (IDS.sow, IDS.eow))
        return int(start), int(end)

    def image_places(self, ids: Tensor, embeds: Tensor, image: Tensor) -> Tensor:
        return Gemma3Model.get_placeholder_mask(self.model.model, ids, embeds, image)

    def hidden(self, inputs: dict[str, Tensor], cache: DynamicCache | None = None) -> Tensor:
        model = self.model.model
        embeds, masks = self.embed(inputs)
        places = torch.arange(embeds.shape[1], device=embeds.device).expand(len(embeds), -1)
        mapping = create_masks_for_vision_model(
            block_sequence_ids=get_block_sequence_ids_for_mask(masks["token_type_ids"]),
            config=self.model.config.text_config,
            inputs_embeds=embeds,
            attention_mask=masks["attention_mask"],
            past_key_values=cache,
            position_ids=places,
        )
        return model.language_model(
            inputs_embeds=embeds, attention_mask=mapping, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state

    def logits(self, inputs: dict[str, Tensor], cache: DynamicCache | None = None) -> Tensor:
        """``[b, l, v]``, at every position."""
        return self.model.lm_head(self.hidden(inputs, cache))

    def loss(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Of all logits; ``labels`` ``[b, l]`` are those of the whole prompt."""
        scores = self.logits(inputs)
        shifted, targets = scores[:, :-1].contiguous().float(), labels[:, 1:].contiguous()
        return F.cross_entropy(shifted.view(-1, shifted.shape[-1]), targets.view(-1).to(scores.device))

    @torch.no_grad()
    def generate(self, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        """Greedy, of one row: ``[1, tokens]``."""
        cache = DynamicCache(config=self.model.config.text_config)
        said = [int(self.logits(inputs, cache)[:, -1].argmax(-1).item())]
        while len(said) < tokens:
            said.append(self.step(said[-1], cache))
        return torch.tensor([said])

    def step(self, last: int, cache: DynamicCache) -> int:
        ids = torch.tensor([[last]], device=self.model.device)
        hidden = self.model.model.language_model(input_ids=ids, past_key_values=cache, use_cache=True)
        return int(self.model.lm_head(hidden.last_hidden_state)[:, -1].argmax(-1).item())


def diffusers_vae(ours: VaeEncoder) -> nn.Module:
    """diffusers' whole autoencoder without its decoder, on the weights of ``ours``."""
    with torch.device("meta"):
        theirs = ours.diffusers_class()(**ours.config)
    theirs.decoder = None
    device = next(ours.parameters()).device
    theirs.encoder.to_empty(device=device).load_state_dict(ours.encoder.state_dict(keep_vars=True), assign=True)
    theirs.quant_conv.to_empty(device=device).load_state_dict(ours.quant_conv.state_dict(keep_vars=True), assign=True)
    for buffer, value in zip(theirs.encoder.buffers(), ours.encoder.buffers(), strict=True):
        buffer.copy_(value)
    return theirs.eval().requires_grad_(False)


def check_live(model: TheWorldForConditionalGeneration, before: Predecessor, given: dict[str, Tensor]) -> None:
    """Another picture for the world branch alone changes the logits, and both arms compute the same.

    Raises:
        RuntimeError: one of the two does not hold.
    """
    was = model.training
    model.eval()
    other = {**given, "pixel_values_world": picture(model, len(given["input_ids"]), seed=1)["pixel_values_world"]}
    with torch.no_grad():
        ours, changed = (model(**inputs, logits_to_keep=8).logits.float() for inputs in (given, other))
        theirs = before.logits(given)[:, -8:].float()
    model.train(was)
    scale, difference = ours.abs().max().item(), (ours - theirs).abs().max().item()
    if torch.equal(ours, changed):
        raise RuntimeError("the world input changes nothing: the world path is not live.")
    if difference > 0.05 * scale:
        raise RuntimeError(
            f"the arms differ by {difference:g} in logits up to {scale:g}: they do not compute the same."
        )


def _without_world(tokens: Tensor) -> Tensor:
    """The prompt as it was then: ``[BOS SOW EOW ...]``."""
    return torch.cat([tokens[:, :2], tokens[:, 2 + WORLD :]], dim=1)
