"""What the processor writes: the sequence of the contract, items in any nesting, and host-side errors."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Gemma3Processor

from theworld_encoders import MediaError
from theworld_fusion import TheWorldConfig, TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture
from theworld_tokens import TokenLayout, world_span

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]


def spans(ids: torch.Tensor, layout: TokenLayout) -> list[int]:
    """Lengths of the world spans of one row, in order."""
    lengths, inside = [], None
    for token in ids.tolist():
        if token == layout.start_of_world:
            inside = 0
        elif token == layout.end_of_world:
            lengths.append(inside)
        elif token == layout.world_soft_token:
            inside += 1
    return lengths


def test_the_sequence_of_one_picture(pair: Pair) -> None:
    _, processor = pair
    layout = TokenLayout.from_tokenizer(processor.tokenizer)
    ids = encode(processor, chat(picture(0)))["input_ids"][0].tolist()
    head = [layout.bos, *world_span(36, layout)]
    assert ids[: len(head)] == head
    assert ids.count(layout.bos) == 1
    assert ids.count(layout.image_soft_token) == 16
    assert ids.index(layout.image_soft_token) > ids.index(layout.end_of_world)


def test_with_published_settings_one_picture_has_784_world_tokens(folders: tuple[Path, Path]) -> None:
    base = Gemma3Processor.from_pretrained(folders[0], backend="pil")
    processor = TheWorldProcessor.from_config(TheWorldConfig(), base)
    inputs = encode(processor, chat(picture(0)))
    layout = TokenLayout.from_tokenizer(processor.tokenizer)
    assert spans(inputs["input_ids"][0], layout) == [784]
    assert inputs["pixel_values_world"].shape == (1, 1, 3, 224, 224)


@pytest.mark.parametrize(("frames", "slots"), [(1, 36), (2, 18), (5, 18), (9, 27), (13, 36), (14, 5), (61, 16)])
def test_slots_of_a_clip(pair: Pair, frames: int, slots: int) -> None:
    _, processor = pair
    inputs = encode(processor, chat(clip(0, frames)))
    assert spans(inputs["input_ids"][0], TokenLayout.from_tokenizer(processor.tokenizer)) == [slots]
    assert inputs["pixel_values_world"].shape[:2] == (1, processor.world_spec.fit_frames(frames))


def test_world_off_is_gemmas_own_processor(pair: Pair, folders: tuple[Path, Path]) -> None:
    _, processor = pair
    stock = Gemma3Processor.from_pretrained(folders[0], backend="pil")
    text = ["<bos><start_of_image> What is it?", "<bos>Hello", "<bos><start_of_image><start_of_image> Compare."]
    images = [[picture(0)], [], [picture(1), picture(2)]]
    ours = processor(images=images, text=text, world="off", padding=True, return_tensors="pt")
    theirs = stock(images=images, text=text, padding=True, return_tensors="pt")
    assert set(ours) == set(theirs)
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]), key


def test_a_clips_last_frame_is_the_base_vlms_picture(pair: Pair) -> None:
    _, processor = pair
    frames = clip(3)
    of_clip = encode(processor, chat(frames))["pixel_values"]
    assert torch.equal(of_clip, encode(processor, chat(frames[-1]))["pixel_values"])


def test_one_reading_of_every_nesting(pair: Pair) -> None:
    _, processor = pair
    one, two, frames = picture(0), picture(1), clip(5)
    boi = processor.boi_token

    def pixels(images: object, text: str | list[str]) -> list[int]:
        inputs = processor(images=images, text=text)
        return [len(item) for item in inputs["pixel_values_world"]]

    assert pixels(one, boi) == [1]
    assert pixels([one], boi) == [1]
    assert pixels([one, two], boi + boi) == [1, 1]
    assert pixels([[one, two]], boi + boi) == [1, 1]
    assert pixels([frames], boi) == [9]
    assert pixels([[frames]], boi) == [9]
    assert pixels([frames, one], boi + boi) == [9, 1]
    assert pixels([[frames, one]], [boi + boi]) == [9, 1]
    assert pixels([one, frames], [boi, boi]) == [1, 9]
    assert pixels([[one, frames], [], [two]], [boi + boi, "none", boi]) == [1, 9, 1]


@pytest.mark.parametrize("placement", ["first", "beside_image"])
def test_placement_and_order_of_items(build: Callable[..., Pair], placement: str) -> None:
    _, processor = build(world_placement=placement)
    layout = TokenLayout.from_tokenizer(processor.tokenizer)
    ids = encode(processor, chat(picture(0), clip(1), picture(2)))["input_ids"][0]
    assert spans(ids, layout) == [36, 27, 36]
    markers = {layout.start_of_world: "W", layout.start_of_image: "I"}
    order = "".join(markers.get(token, "") for token in ids.tolist())
    assert order == ("WWWIII" if placement == "first" else "WIWIWI")
    assert (ids[1] == layout.start_of_world) == (placement == "first")


def test_an_item_of_a_later_turn_stands_beside_its_image_so_that_the_cache_stays_valid(pair: Pair) -> None:
    _, processor = pair
    layout = TokenLayout.from_tokenizer(processor.tokenizer)
    answer = {"role": "assistant", "content": [{"type": "text", "text": "It is moving to the left."}]}
    opening = [*chat(picture(0), clip(1)), answer]
    shorter = processor.apply_chat_template(opening, tokenize=True, return_dict=True)["input_ids"][0]
    longer = encode(processor, [*opening, *chat(clip(2), picture(3)), answer, *chat(text="And then?")])
    ids = longer["input_ids"][0]
    assert ids.tolist()[: len(shorter)] == list(shorter)
    assert spans(ids, layout) == [36, 27, 27, 36]
    assert [len(item) for item in longer["pixel_values_world"]] == [1, 9, 9, 1]
    markers = {layout.start_of_world: "W", layout.start_of_image: "I", layout.start_of_turn: "T"}
    assert "".join(markers.get(token, "") for token in ids.tolist()) == "WWTIITTWIWITT" + "T"


def test_processors_may_be_used_from_many_threads(build: Callable[..., Pair]) -> None:
    _, processor = build(world_placement="beside_image")
    chats = [chat(*(clip(seed, 9) for _ in range(seed % 3 + 1))) for seed in range(6)]
    wanted = [encode(processor, messages)["input_ids"] for messages in chats]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            found = list(pool.map(lambda messages: encode(processor, messages)["input_ids"], chats))
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("attention", "marked"), [("bidirectional", True), ("causal", False)])
def test_token_type_ids_mark_bidirectional_runs(build: Callable[..., Pair], attention: str, marked: bool) -> None:
    _, processor = build(world_attention=attention)
    layout = TokenLayout.from_tokenizer(processor.tokenizer)
    inputs = encode(processor, chat(picture(0)))
    wanted = inputs["input_ids"] == layout.image_soft_token
    if marked:
        wanted |= inputs["input_ids"] == layout.world_soft_token
    assert torch.equal(inputs["token_type_ids"].bool(), wanted)


def test_text_without_bos_gets_its_span_behind_the_bos_that_the_tokenizer_adds(pair: Pair) -> None:
    _, processor = pair
    layout = TokenLayout.from_tokenizer(processor.tokenizer)
    ids = processor(images=picture(0), text=processor.boi_token)["input_ids"][0]
    assert ids[:2] == [layout.bos, layout.start_of_world]
    assert ids.count(layout.bos) == 1


def test_a_video_file_is_sampled(pair: Pair, tmp_path: Path) -> None:
    import av
    import numpy as np

    _, processor = pair
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    messages = [{"role": "user", "content": [{"type": "video", "video": str(path)}]}]
    inputs = encode(processor, messages)
    for key in ("path", "url"):  # transformers' own names for the same thing
        same = encode(processor, [{"role": "user", "content": [{"type": "video", key: str(path)}]}])
        assert torch.equal(same["pixel_values_world"], inputs["pixel_values_world"])
    assert inputs["pixel_values_world"].shape == (1, 9, 3, 48, 48)
    brightness = inputs["pixel_values_world"].mean((0, 2, 3, 4))
    assert (brightness.diff() > 0.1).all()
    assert messages == [{"role": "user", "content": [{"type": "video", "video": str(path)}]}]


def test_saved_and_loaded(pair: Pair, tmp_path: Path) -> None:
    model, processor = pair
    processor.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, TheWorldProcessor)
    chats = [chat(picture(0), clip(1)), chat(text="Hello")]
    ours, theirs = encode(processor, chats), encode(loaded, chats)
    for key in ("input_ids", "attention_mask", "token_type_ids", "pixel_values"):
        assert torch.equal(ours[key], theirs[key]), key
    assert all(torch.equal(a, b) for a, b in zip(ours["pixel_values_world"], theirs["pixel_values_world"], strict=True))
    assert loaded.world_num_frames == 9


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        (lambda: [picture(0), picture(1)], "<start_of_image>", r"there are 1 .* for 2 items"),
        (lambda: clip(0), "<start_of_image>", "a clip is one item, a list of frames"),
        (lambda: [[]], "<start_of_image>", "has no frames"),
        (lambda: [clip(0, 62)], "<start_of_image>", "a clip makes 17 latent frames; .* is 16. Give at most 61 frames"),
        (lambda: ["no.png"], "<start_of_image>", "no.png"),
        (lambda: torch.rand(3, 8, 8), "<start_of_image>", r"array of float32 .* Give 8-bit values \(0 to 255\)"),
        (lambda: [torch.rand(9, 3, 8, 8) * 255], "<start_of_image>", r"array of float32 .* Give 8-bit values"),
        (lambda: np.zeros((8, 8, 4), np.uint8), "<start_of_image>", r"shape \(8, 8, 4\)\. Give .* \(h, w, 3\)"),
        (lambda: torch.zeros(1, 8, 8, dtype=torch.uint8), "<start_of_image>", r"shape \(1, 8, 8\)\. Give"),
    ],
)
def test_bad_items(pair: Pair, images: Callable[[], object], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair[1](images=images(), text=text)


def test_truncation_that_cuts_a_span_names_both_numbers(pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"Mismatch in `image` token count|20 <world_soft_token> tokens"):
        pair[1](images=picture(0), text="<start_of_image>", truncation=True, max_length=22)


@pytest.mark.parametrize("placement", ["first", "beside_image"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_is_refused_wherever_it_cuts(build: Callable[..., Pair], placement: str, side: str) -> None:
    _, processor = build(world_placement=placement)
    text = f"Which way{processor.boi_token} is it moving?"
    whole = processor(images=picture(0), text=text)["input_ids"][0]
    layout = TokenLayout.from_tokenizer(processor.tokenizer)
    marks = {layout.start_of_world, layout.world_soft_token, layout.end_of_world}
    marks |= {layout.start_of_image, layout.image_soft_token, layout.end_of_image}
    inside = [index for index, token in enumerate(whole) if token in marks]
    kept = [*range(2, inside[-1] + 1)] if side == "right" else [*range(2, len(whole) - inside[0])]
    assert len(kept) > 36
    processor.tokenizer.truncation_side = side
    try:
        for length in kept:
            with pytest.raises(ValueError, match=r"max_length"):
                processor(images=picture(0), text=text, truncation=True, max_length=length)
    finally:
        processor.tokenizer.truncation_side = "right"


def test_a_placeholder_in_the_users_text_is_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"prompt 0 has 37 <world_soft_token> tokens, .* take 36"):
        pair[1](images=picture(0), text="<start_of_image><world_soft_token>")


def test_world_takes_on_and_off_only(pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"world is 'yes'\. Use 'on' or 'off'"):
        pair[1](images=picture(0), text="<start_of_image>", world="yes")


def test_a_missing_video_file(pair: Pair) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.mp4"):
        encode(pair[1], [{"role": "user", "content": [{"type": "video", "video": "nowhere.mp4"}]}])


def test_precomputed_features_take_the_place_of_pixels(pair: Pair) -> None:
    model, processor = pair
    chats = [chat(picture(0), clip(1)), chat(text="Hello")]
    live = encode(processor, chats)
    features = model.get_world_features(live["pixel_values_world"]).last_hidden_state
    cached = encode(processor, chats, world_features=features)
    assert torch.equal(cached["input_ids"], live["input_ids"])
    assert "pixel_values_world" not in cached
    assert all(one is other for one, other in zip(cached["world_features"], features, strict=True))
    with pytest.raises(ValueError, match="there are 1 world features for 2 items"):
        encode(processor, chats, world_features=features[:1])


@pytest.mark.parametrize("placement", ["first", "beside_image"])
@pytest.mark.parametrize("world", ["on", "off"])
def test_tokens_are_known_without_pixels(build: Callable[..., Pair], placement: str, world) -> None:
    _, processor = build(world_placement=placement)
    said = [{"role": "assistant", "content": "It moves."}]
    later = chat(picture(1), text="And this?\n")
    chats = [
        chat(picture(0)),
        chat(text="Hello"),
        chat(picture(0), clip(2), text="Hi"),
        [*chat(clip(1)), *said, *later],
    ]
    for messages, frames in zip(chats, ([1], [], [1, 9], [9, 1]), strict=True):
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        options = {"return_offsets_mapping": True, "return_text_replacement_offsets": True}
        wanted = encode(processor, [messages], world=world, **options)
        for name, values in processor.without_pixels(text, frames, world=world).items():
            assert np.array_equal(values, wanted[name][0]), name
    with pytest.raises(ValueError, match="latent frames"):
        processor.without_pixels("<start_of_image>", [1000])
