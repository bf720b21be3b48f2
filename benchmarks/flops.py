"""What one step of training the world projector alone costs: `python benchmarks/flops.py`, in seconds and no memory.

Floating point operations of one sample, forwards and backwards, counted on tensors without values: Gemma-3-4B with the
Cosmos-Predict2 encoder at its published size, 784 world, 256 image and 60 text tokens, 32 of them with labels. One JSON
object for each kind of input, with the ratio to the same step with logits everywhere and live encoders.
"""

import argparse
import json

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld_fusion import TheWorldConfig, TheWorldForConditionalGeneration, WorldEncoderConfig
from theworld_fusion.loss import causal_lm_loss, supervised_loss
from theworld_tokens import IGNORE_INDEX
from theworld_train.estimate.sizes import gemma3

WORLD, IMAGE, TEXT, LABELLED = 784, 256, 60, 32
SOW, EOW, WORLD_TOKEN = 262_145, 262_146, 262_147


def model() -> TheWorldForConditionalGeneration:
    """Gemma-3-4B's sizes, everything frozen but the world projector."""
    published = gemma3("4b")
    config = TheWorldConfig(
        text_config=published.text_config,
        vision_config=published.vision_config,
        world_config=WorldEncoderConfig(encoder_config={}, frame_size=224),
        mm_tokens_per_image=IMAGE,
        world_fusion="sequence",
        world_tokens_per_item=WORLD,
        world_start_token_id=SOW,
        world_end_token_id=EOW,
        world_token_id=WORLD_TOKEN,
    )
    with torch.device("meta"):
        fused = TheWorldForConditionalGeneration(config).to(torch.bfloat16)
    fused.requires_grad_(False)
    fused.model.world_projector.requires_grad_(True)
    # Gemma's own counts the placeholders, which have no values here.
    fused.model.get_placeholder_mask = lambda input_ids, inputs_embeds, image_features: (
        (input_ids == config.image_token_id).unsqueeze(-1).expand_as(inputs_embeds)
    )
    return fused.train()


def teraflops(fused: TheWorldForConditionalGeneration, *, vision: bool, world: bool, everywhere: bool = False) -> float:
    """Of one step, with or without the two encoders, with the head at the labels or everywhere."""
    length = WORLD + IMAGE + TEXT
    kind = {"device": "meta", "dtype": torch.bfloat16}
    ids = torch.empty(1, length, dtype=torch.long, device="meta")
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    if vision:
        inputs["pixel_values"] = torch.empty(1, 3, 896, 896, **kind)
    else:
        features = torch.empty(1, IMAGE, 2560, **kind)
        inputs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features)}
    if world:
        inputs["pixel_values_world"] = torch.empty(1, 1, 3, 224, 224, **kind)
    else:
        inputs["world_features"] = torch.empty(1, 1, 28, 28, 16, **kind)
    # Labels have values, to tell where they are.
    labels = torch.zeros(1, length, dtype=torch.long)
    labels[:, :-LABELLED] = IGNORE_INDEX
    with FlopCounterMode(display=False) as counter:
        hidden = fused.model(**inputs).last_hidden_state
        if everywhere:
            loss = causal_lm_loss(fused.lm_head(hidden), labels.to("meta"), fused.lm_head.out_features)
        else:
            loss = supervised_loss(hidden, labels, fused.lm_head)
        loss.backward()
    return counter.get_total_flops() / 1e12


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    fused = model()
    full = teraflops(fused, vision=True, world=True, everywhere=True)
    for name, vision, world in (
        ("train_live", True, True),
        ("train_world_cached", True, False),
        ("train_cached", False, False),
    ):
        value = teraflops(fused, vision=vision, world=world)
        row = {
            "name": f"flops.{name}",
            "value": round(value, 3),
            "unit": "TFLOP/sample",
            "ratio": round(full / value, 3),
            "device": "meta",
            "geometry": {"world": WORLD, "image": IMAGE, "text": TEXT, "labelled": LABELLED},
            "seed": None,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
