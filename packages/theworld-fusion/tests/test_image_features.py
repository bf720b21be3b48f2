"""Features of the vision tower that were computed before stand in for its pixels: the same tokens, loss and answers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from theworld_fusion.image_projector import ImageProjector
from theworld_fusion.processing_theworld import STAND_IN
from theworld_fusion.testing import chat, encode, random_clip, random_picture, tiny_model

PICTURE, CLIP = random_picture(1), random_clip(2)
CHATS = {
    "a picture": [chat(PICTURE)],
    "a clip": [chat(CLIP)],
    "several in one turn": [chat(PICTURE, CLIP, random_picture(3))],
    "several rows": [chat(PICTURE), chat(), chat(CLIP, random_picture(4))],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("tiny")


def features_of(model: Any, processor: Any, items: list[Any]) -> list[Tensor]:
    """Of each item, computed alone."""
    found = []
    for item in items:
        pixels = processor(images=[[item]], world="off", return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            hidden = model.model.vision_tower(pixel_values=pixels).last_hidden_state
            found.append(model.model.multi_modal_projector.pool(hidden).contiguous())
    return found


def items_of(chats: list[Any]) -> list[Any]:
    return [
        block["image"] if block["type"] == "image" else block["video"]
        for messages in chats
        for block in messages[0]["content"]
        if block["type"] != "text"
    ]


def bare(chats: list[Any]) -> list[Any]:
    """The chats with a stand-in for every item."""
    return [chat(*[STAND_IN] * len(items_of([messages]))) for messages in chats]


@pytest.mark.parametrize("pictures", [1, 3])
def test_pooled_before_or_now_gives_the_same_tokens_and_gradients(folder: Any, pictures: int) -> None:
    projector: Any = tiny_model(folder)[0].model.multi_modal_projector
    assert isinstance(projector, ImageProjector)
    nn.init.normal_(projector.mm_soft_emb_norm.weight)
    hidden = torch.randn(pictures, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens, gradients = [], []
    for inputs, pooled in ((hidden, False), (projector.pool(hidden).contiguous(), True)):
        projector.zero_grad()
        out = projector(inputs, pooled=pooled)
        out.square().sum().backward()
        tokens.append(out.detach())
        gradients.append([one.grad.clone() for one in projector.parameters()])
    assert torch.equal(*tokens)
    assert tokens[0].abs().max() > 0
    assert len(gradients[0]) == 2
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("fusion", ["sequence", "gated", "none"])
def test_features_in_place_of_pixels_give_the_same_answer(folder: Any, name: str, fusion: str) -> None:
    model, processor = tiny_model(folder, world_fusion=fusion)
    chats = CHATS[name]
    live = encode(processor, chats)
    images = features_of(model, processor, items_of(chats))
    cached = encode(processor, chats, image_features=images)
    assert "pixel_values" not in cached
    assert cached["image_features"].shape == (len(images), 16, 64)
    assert torch.equal(live["input_ids"], cached["input_ids"])
    assert torch.equal(live["token_type_ids"], cached["token_type_ids"])
    exact = len(images) == 1  # several are encoded as one batch, which rounds in its own way
    with torch.no_grad():
        one, other = model(**live).logits, model(**cached).logits
        torch.testing.assert_close(one, other, rtol=0, atol=0 if exact else 1e-5)
        said = [model.generate(**inputs, max_new_tokens=4, do_sample=False) for inputs in (live, cached)]
    assert torch.equal(*said)


def test_another_picture_gives_other_logits(folder: Any) -> None:
    model, processor = tiny_model(folder)
    with torch.no_grad():
        one, other = (
            model(**encode(processor, [chat(PICTURE)], image_features=features_of(model, processor, [shown]))).logits
            for shown in (PICTURE, random_picture(9))
        )
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("world", ["on", "off"])
def test_with_features_of_both_branches_no_item_is_looked_at(folder: Any, world: str) -> None:
    model, processor = tiny_model(folder)
    chats = CHATS["several rows"]
    live = encode(processor, chats, world=world)
    features: dict[str, Any] = {"image_features": features_of(model, processor, items_of(chats))}
    if world == "on":
        features["world_features"] = model.get_world_features(live["pixel_values_world"]).last_hidden_state
    cached = encode(processor, bare(chats), world=world, **features)
    assert torch.equal(live["input_ids"], cached["input_ids"])
    assert cached.keys() & {"pixel_values", "pixel_values_world"} == set()
    with torch.no_grad():
        torch.testing.assert_close(model(**live).logits, model(**cached).logits, rtol=0, atol=1e-5)


def test_crops_of_pan_and_scan_are_features_too(folder: Any) -> None:
    model, processor = tiny_model(folder)
    wide = random_picture(5, (160, 64))
    processor.images_kwargs = {
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 32,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    live = encode(processor, [chat(wide)])
    [features] = features_of(model, processor, [wide])
    assert len(features) == len(live["pixel_values"]) > 1
    cached = encode(processor, [chat(wide)], image_features=[features])
    assert torch.equal(live["input_ids"], cached["input_ids"])
    with torch.no_grad():
        assert torch.equal(model(**live).logits, model(**cached).logits)


def test_features_that_do_not_fit_are_refused(folder: Any) -> None:
    model, processor = tiny_model(folder)
    [features] = features_of(model, processor, [PICTURE])
    with pytest.raises(ValueError, match="2 image features for 1 items"):
        encode(processor, [chat(PICTURE)], image_features=[features, features])
    with pytest.raises(ValueError, match=r"image features have shape \(1, 15, 64\)\. Give \[images, 16, width\]"):
        encode(processor, [chat(PICTURE)], image_features=[features[:, 1:]])
    inputs = encode(processor, [chat(PICTURE)])
    for given in (inputs, encode(processor, [chat(PICTURE)], world="off")):
        with pytest.raises(ValueError, match="image input is given twice"):
            model(**given, image_features=features)
    encoded = {"image": model.model.get_image_features(inputs.pop("pixel_values"))}
    with pytest.raises(ValueError, match="image input is given twice"):
        model(**inputs, mm_encoder_outputs=encoded, image_features=features)
