"""The micro-world as files that need nothing of ours: a parquet table, a lossless video a clip, a data card."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment
from PIL import Image

from theworld_train.errors import UsageError
from theworld_train.jobs import Report
from theworld_train.microworld.draw import draw
from theworld_train.microworld.stage import StagedClip, families, stage
from theworld_train.microworld.version import GENERATOR_VERSION, fingerprint, states

_MANIFEST = "manifest.json"
_RATE = 8
"""Frames a second of the videos, so that nine frames take a little over one."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to export; see ``stage.stage`` for the fields that it shares."""

    split: str
    groups: int = 50
    families: tuple[str, ...] = ()
    level: str = "easy"
    seed: int = 0
    num_frames: int = 9
    size: int = 96

    @property
    def fingerprint(self) -> str:
        """Digest of all of it, and of a sample of what is made."""
        options = asdict(self)
        return fingerprint(names=options.pop("families"), **options)


def export(wanted: Wanted, out: Path, *, report: Report) -> bool:
    """Write the clips to the folder ``out``. It is there whole or not at all: what an interrupted export left beside
    it is thrown away by the next one.

    Returns:
        Whether anything was written: not where ``out`` already holds just this.

    Raises:
        UsageError: ``out`` holds something else, or cannot be written.
        ValueError: there is no such split, family or level, or a number is out of range.
    """
    if wanted.groups < 1 or wanted.size < 32:
        raise ValueError(f"there are {wanted.groups} groups of {wanted.size} pixels. Use 1 or more, of 32 or more.")
    digest = wanted.fingerprint
    if _holds(out, digest):
        return False
    partial = out.parent / f".{out.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "clips").mkdir(parents=True)
        rows = _write_clips(wanted, partial, report)
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial / f"{wanted.split}.parquet")
        (partial / "README.md").write_text(_card(wanted, digest, rows), encoding="utf-8")
        manifest = {"generator_version": GENERATOR_VERSION, "fingerprint": digest, "clips": len(rows), **asdict(wanted)}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        partial.rename(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error}). Give another folder, with --out.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def write_video(frames: Sequence[Image.Image], path: Path) -> None:
    """A Matroska file in FFV1, which loses nothing: what is read back are the same pixels."""
    import av

    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("ffv1", rate=_RATE)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def _holds(out: Path, digest: str) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        found = "something else"
    if found != digest:
        raise UsageError(f"{out} is there and holds other data ({found:.20}). Give a new folder, with --out.")
    return True


def _write_clips(wanted: Wanted, folder: Path, report: Report) -> list[dict[str, Any]]:
    every, rows = families(wanted.families), []
    for number, family in enumerate(every):
        for index in range(wanted.groups):
            report(number * wanted.groups + index, len(every) * wanted.groups, family)
            clips = stage(
                wanted.split, family, index, seed=wanted.seed, level=wanted.level, num_frames=wanted.num_frames
            )
            for place, clip in enumerate(clips):
                name = f"clips/{family.replace('/', '-')}-{index:06}-{place}.mkv"
                write_video([draw(scene, size=wanted.size) for scene in clip.scenes], folder / name)
                rows.append(_row(wanted, clip, index, name))
    report(len(every) * wanted.groups, len(every) * wanted.groups)
    return rows


_TEXTS = ("key", "group", "split", "family", "question_family", "scene_family", "level", "question", "answer")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [
        ("choices", pa.list_(pa.string())),
        ("motion", pa.bool_()),
        ("plausible", pa.bool_()),
        ("seed", pa.int64()),
        ("index", pa.int64()),
        ("video", pa.string()),
        ("states", pa.string()),
        ("messages", pa.string()),
    ]
)


def _row(wanted: Wanted, clip: StagedClip, index: int, video: str) -> dict[str, Any]:
    blocks = [{"type": "video", "video": video}, {"type": "text", "text": clip.question.text}]
    return {
        "key": Path(video).stem,
        "group": clip.group,
        "split": wanted.split,
        "family": clip.family,
        "question_family": clip.question.family,
        "scene_family": clip.scene_family,
        "level": clip.level,
        "question": clip.question.text,
        "answer": clip.question.answer,
        "choices": list(clip.question.choices),
        "motion": clip.question.motion,
        "plausible": clip.plausible,
        "seed": wanted.seed,
        "index": index,
        "video": video,
        "states": json.dumps(states(clip)),
        "messages": json.dumps(
            [{"role": "user", "content": blocks}, {"role": "assistant", "content": clip.question.answer}]
        ),
    }


def _card(wanted: Wanted, digest: str, rows: Sequence[dict[str, Any]]) -> str:
    template = files("theworld_train.microworld").joinpath("card.md.jinja").read_text(encoding="utf-8")
    return (
        Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(template)
        .render(
            wanted=wanted,
            version=GENERATOR_VERSION,
            fingerprint=digest,
            clips=len(rows),
            families=Counter(row["family"] for row in rows),
            motion={row["family"]: row["motion"] for row in rows},
            choices={row["family"]: len(row["choices"]) for row in rows},
            libraries={name: version(name) for name in ("theworld-train", "pymunk", "numpy", "Pillow", "av")},
        )
    )
