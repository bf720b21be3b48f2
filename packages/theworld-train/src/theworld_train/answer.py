"""One question about pictures and clips: the main job, as ``theworld answer`` does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TextStreamer

from theworld_encoders import MediaError, VideoFrames, load_image, read_video
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_train.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Media:
    """What a question is about, already decoded."""

    images: list[Any]
    videos: list[VideoFrames]


def load_media(images: Sequence[Path], videos: Sequence[Path], num_frames: int) -> Media:
    """Decode pictures and ``num_frames`` even frames of each video.

    Raises:
        MediaError: a file cannot be read, or a video has a single frame.
        UsageError: there is nothing to look at.
    """
    if not images and not videos:
        raise UsageError("there is nothing to look at. Give --image FILE or --video FILE.")
    clips = [read_video(path, num_frames) for path in videos]
    for path, clip in zip(videos, clips, strict=True):
        if clip.total < 2:
            raise MediaError(f"The video {str(path)!r} has one frame, so nothing moves in it. Give it with --image.")
    return Media(images=[load_image(path) for path in images], videos=clips)


def describe(path: Path, clip: VideoFrames) -> str:
    """Which frames of a video were taken, for people."""
    seconds = ", ".join(f"{moment:.2f}" for moment in clip.timestamps)
    indices = ", ".join(str(index) for index in clip.indices)
    return f"{path}: {len(clip.frames)} of {clip.total} frames: {indices} (at {seconds} s)"


def answer(
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    media: Media,
    question: str,
    *,
    world: bool,
    max_new_tokens: int,
) -> str:
    """Answer ``question``, writing the answer to standard output as it comes; returns it whole."""
    blocks: list[dict[str, Any]] = [{"type": "image", "image": image} for image in media.images]
    blocks += [{"type": "video", "video": clip.frames} for clip in media.videos]
    apply: Any = processor.apply_chat_template  # annotated upstream as giving text only
    inputs = apply(
        [{"role": "user", "content": [*blocks, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"world": "on" if world else "off"},
    ).to(model.device)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)  # pyright: ignore[reportArgumentType]
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, streamer=streamer)  # pyright: ignore[reportAttributeAccessIssue]
    return processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
