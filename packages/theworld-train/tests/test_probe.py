"""Linear probes find what is planted, and nothing where nothing is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from theworld_encoders import Encoder, load_encoder
from theworld_encoders.testing import TINY_FRAME_SIZE
from theworld_train.errors import UsageError
from theworld_train.evaluate.clusters import interval, resample
from theworld_train.evaluate.probe import PROBES, Card, ProbeSettings, run_probes, write_card
from theworld_train.evaluate.probe.card import notes
from theworld_train.evaluate.probe.data import probe_clips
from theworld_train.evaluate.probe.features import cut, encoder_reader, pool
from theworld_train.evaluate.probe.fit import fit
from theworld_train.evaluate.probe.scores import chance_of, measure

Run = Callable[..., Any]

SETTINGS = ProbeSettings(groups=12, width=48)


class Oracle(Encoder):
    """Where the object is, in every frame: it writes the centre of what stands out from the empty box."""

    published = replace(
        load_encoder("zeros", frame_size=TINY_FRAME_SIZE).spec, name="oracle", width=2, temporal_stride=1
    )

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> "Oracle":
        return cls(cls.published, config)

    @classmethod
    def from_pretrained(cls, source: Any = None, **_: Any) -> "Oracle":
        return cls(cls.published, {})

    def reset_parameters(self) -> None: ...

    def encode(self, pixels: Tensor) -> Tensor:
        grey = pixels.mean(dim=2)[..., 3:-3, 3:-3]
        weight = (grey - grey.flatten(2).median(dim=-1).values[..., None, None]).abs()
        places = torch.linspace(0, 1, grey.shape[-1])
        total = weight.sum(dim=(2, 3)).clamp(min=1e-3)  # nothing may be seen
        x, y = (weight * places).sum(dim=(2, 3)) / total, (weight * places[:, None]).sum(dim=(2, 3)) / total
        _, rows, columns = self.spec.grid(1, *pixels.shape[3:])
        return torch.stack([x, y], dim=-1)[:, :, None, None].expand(-1, -1, rows, columns, -1)


def load(name: str) -> Encoder:
    return Oracle(Oracle.published, {}) if name == "oracle" else load_encoder(name, frame_size=TINY_FRAME_SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def card(folder: Path) -> Card:
    return run_probes(["oracle", "zeros"], load, cache=folder, settings=SETTINGS)


def test_what_is_planted_is_read_and_zeros_and_noise_are_at_chance(card: Card) -> None:
    rows = {row.name: row.scores for row in card.rows}
    assert rows["oracle"]["position"].value > 0.99
    assert rows["oracle"]["velocity"].value > 0.99
    assert rows["oracle"]["velocity"].is_above_chance
    for name in ("zeros", "zero features", "noise features"):
        assert not any(score.is_above_chance for score in rows[name].values()), name
    for score in rows["zeros"].values():
        assert score.value <= score.chance
    for scores in rows.values():
        for score in scores.values():
            assert score.low <= score.value <= score.high
            assert score.permuted < score.chance + 0.1


def test_the_best_encoder_comes_first_and_baselines_come_last(card: Card) -> None:
    assert [row.name for row in card.rows[:2]] == ["oracle", "zeros"]
    assert [row.baseline for row in card.rows] == [False, False, True, True, True, True]


def test_the_last_frame_alone_tells_nothing_that_needs_the_clip(card: Card) -> None:
    [last] = [row for row in card.rows if row.name == "raw pixels, last frame"]
    for name, probe in PROBES.items():
        score = last.scores[name]
        if probe.needs_clip:
            assert score.low <= score.chance, name
    assert last.scores["position"].value > 0.3
    assert sum("at chance, as it must be" in note for note in notes(card)) == 3


def test_cached_equals_uncached_and_nothing_is_drawn_or_encoded(
    card: Card, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theworld_train.evaluate.probe.data.ProbeClip.frames", None)
    monkeypatch.setattr(Oracle, "encode", None)
    assert run_probes(["oracle", "zeros"], load, cache=folder, settings=SETTINGS) == card


def test_groups_never_straddle_and_velocities_of_a_group_cancel() -> None:
    splits = {split: probe_clips(split, 4, 0) for split in ("train", "val", "test")}  # pyright: ignore[reportArgumentType]
    names = [{clip.staged.group for clip in clips} for clips in splits.values()]
    assert len(set.union(*names)) == sum(map(len, names))
    assert len({clip.key for clips in splits.values() for clip in clips}) == sum(map(len, splits.values()))
    probe = PROBES["velocity"]
    clips = [splits["train"][place] for place in probe.places(splits["train"])]
    for group in {clip.staged.group for clip in clips}:
        mine = [clip for clip in clips if clip.staged.group == group]
        assert np.abs(probe.targets(mine).sum(axis=0)).max() < 1e-9
        assert len({clip.frames[-1].tobytes() for clip in mine}) == 1


def test_classes_come_equally_often() -> None:
    clips = probe_clips("test", 4, 0)
    for probe in PROBES.values():
        if probe.classes:
            found = probe.targets([clips[place] for place in probe.places(clips)])
            assert np.bincount(found).tolist() == [len(found) / len(probe.classes)] * len(probe.classes)


def test_measure_is_scikit_learns_and_resamples_whole_groups() -> None:
    from sklearn.metrics import accuracy_score, r2_score

    rng = np.random.default_rng(0)
    wanted, given = rng.normal(size=(40, 2)) + 100, rng.normal(size=(40, 2)) + 100
    groups = [f"g{number // 4}" for number in range(40)]
    member, counts = resample(groups, seed=0)
    draws = measure(wanted, given, member, counts)
    assert draws[0] == pytest.approx(r2_score(wanted, given))
    drawn = np.concatenate([np.tile(np.flatnonzero(member == group), int(counts[5, group])) for group in range(10)])
    assert draws[5] == pytest.approx(r2_score(wanted[drawn], given[drawn]))
    right = rng.integers(2, size=40)
    assert measure(right, right[::-1], member, counts)[0] == pytest.approx(accuracy_score(right, right[::-1]))
    assert chance_of(np.array([0, 0, 1])) == pytest.approx(2 / 3)
    low, high = interval(draws)
    assert low < draws[0] < high


def test_cut_is_pca_by_the_training_clips_alone() -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    train, other = rng.normal(size=(20, 50)) * rng.uniform(1, 5, 50), rng.normal(size=(6, 50))
    mine = cut(train, other, 8)
    scaler = StandardScaler().fit(train)
    scaled = scaler.transform(train) / np.sqrt(50), scaler.transform(other) / np.sqrt(50)
    pca = PCA(8).fit(scaled[0])
    for ours, given in zip(mine, scaled, strict=True):
        np.testing.assert_allclose(np.abs(ours), np.abs(pca.transform(given)), atol=1e-8)
    assert [part.shape[1] for part in cut(train, other, 500)] == [20, 20]
    assert not np.any(cut(np.zeros((5, 3)), np.ones((2, 3)) * 0, 2)[1])


def test_cross_validation_keeps_groups_whole() -> None:
    """Features that tell groups apart and say nothing: with groups torn apart, a weak penalty would look best."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(20), 5)
    features, targets = rng.normal(size=(20, 15))[names], rng.normal(size=(20, 1))[names]
    assert fit(features, targets, [str(name) for name in names]).alpha >= 100


def test_pool_is_the_mean_and_leaves_small_grids() -> None:
    features = torch.arange(64.0).reshape(1, 8, 8, 1)
    assert pool(features)[0, 0, 0, 0] == features[0, :2, :2].mean()
    assert torch.equal(pool(features[:, :3, :3]), features[:, :3, :3])


def test_a_reader_takes_registers_as_they_are() -> None:
    reader = encoder_reader("registers", load("registers"))
    frames = probe_clips("train", 4, 0)[0].frames
    assert reader.read(frames).shape == (3, 4, 4, 16)


def test_bad_settings_are_named() -> None:
    with pytest.raises(UsageError, match=r"groups is 3\. Use 4 or more"):
        ProbeSettings(groups=3)
    with pytest.raises(UsageError, match="fitted on"):
        ProbeSettings(split="train")
    with pytest.raises(UsageError, match="zeros is there twice"):
        run_probes(["zeros", "zeros"], load, cache=Path("unused"))


def test_the_card(card: Card, tmp_path: Path) -> None:
    write_card(card, tmp_path)
    text = (tmp_path / "probes.md").read_text()
    for name in (*PROBES, "oracle", "raw pixels", "| chance |", "Permuted, count"):
        assert name in text
    found = json.loads((tmp_path / "probes.json").read_text())
    assert found["rows"][0]["scores"]["velocity"]["value"] == card.rows[0].scores["velocity"].value
    assert (tmp_path / "probes.png").read_bytes().startswith(b"\x89PNG")


def test_the_command(theworld: Run, tmp_path: Path) -> None:
    result = theworld("encoders", "probe", "siglip", "--tiny", "--groups", 4, "--out", tmp_path)
    assert result.code == 0, result.err
    assert "velocity from the last frame alone" in result.out
    assert {path.name for path in tmp_path.iterdir()} == {"features", "probes.md", "probes.png", "probes.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "there is no encoder called 'nope'"),
        (("dinov3", "--world", "/nowhere"), "there is no folder /nowhere"),
        (("dinov3=/nowhere",), "there is no folder /nowhere"),
        (("dinov3=/nowhere", "--tiny"), "--tiny is toy weights"),
        (("siglip", "--tiny", "--frame-size", 7), "cannot encode frames of 7 x 7 pixels"),
    ],
)
def test_what_can_go_wrong_is_one_line(theworld: Run, tmp_path: Path, arguments: tuple[Any, ...], message: str) -> None:
    result = theworld("encoders", "probe", *arguments, "--out", tmp_path / "out")
    assert result.code == 2
    [line] = [line for line in result.err.splitlines() if line.startswith("theworld: ")]
    assert message in line
    assert "Traceback" not in result.err
