"""`theworld doctor`: what it finds, what it keeps to itself, and what makes it fail."""

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from theworld_encoders import EncoderError, list_encoders, spec_of
from theworld_train import doctor

Run = Callable[..., Any]
SECRET = "hf_" + "t0psecret" * 4


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return cache


def test_it_says_what_is_there(theworld: Run) -> None:
    found = theworld("doctor", "--json")
    assert found.code == 0, found.err
    report = json.loads(found.out)
    assert report["versions"]["theworld-train"] == metadata.version("theworld-train")
    assert report["versions"]["torch"].startswith("2.")
    assert report["devices"][0]["kind"] == "cpu"
    assert report["devices"][0]["memory"] >= report["devices"][0]["free"] > 0
    assert [one["name"] for one in report["encoders"]] == list_encoders()
    assert not any(one["cached"] for one in report["encoders"])
    assert report["problems"] == []
    table = theworld("doctor")
    assert table.code == 0, table.err
    assert all(name in table.out for name in list_encoders())


def test_the_token_is_never_printed(theworld: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for arguments in (["doctor"], ["doctor", "--json"]):
        found = theworld(*arguments)
        assert SECRET not in found.out + found.err
        assert "present" in found.out or json.loads(found.out)["hub_token"] is True


@pytest.mark.parametrize("name", ["siglip2", "cosmos-predict2-vae"])
def test_weights_in_the_cache_are_found_at_the_pinned_revision_alone(name: str, empty_cache: Path) -> None:
    spec = spec_of(name)
    file = "model.safetensors" if name == "siglip2" else "diffusion_pytorch_model.safetensors"
    repository = empty_cache / f"models--{spec.repo_id.replace('/', '--')}/snapshots"
    assert doctor.encoder_state(name).missing.startswith("weights not here")
    other = repository / ("0" * 40) / spec.subfolder / file
    other.parent.mkdir(parents=True)
    other.touch()
    assert not doctor.encoder_state(name).cached
    pinned = repository / spec.revision / spec.subfolder / file
    pinned.parent.mkdir(parents=True)
    pinned.touch()
    assert doctor.encoder_state(name) == doctor.EncoderState(name=name, installed=True, cached=True, missing="")


def test_gated_weights_are_not_said_to_be_accepted() -> None:
    gated = [name for name in list_encoders() if spec_of(name).gated]
    assert gated
    assert all("not known without asking the hub" in doctor.encoder_state(name).missing for name in gated)


def test_a_missing_extra_is_a_problem_only_for_the_default_encoder(
    theworld: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = doctor.encoder_class

    def without(broken: str) -> Callable[[str], Any]:
        def load(name: str) -> Any:
            if name == broken:
                raise EncoderError(f'{name} needs diffusers. Install it: pip install "theworld-encoders[cosmos]"')
            return known(name)

        return load

    monkeypatch.setattr(doctor, "encoder_class", without("siglip2"))
    found = theworld("doctor")
    assert found.code == 0
    assert "siglip2 needs diffusers" in found.out
    monkeypatch.setattr(doctor, "encoder_class", without("cosmos-predict2-vae"))
    found = theworld("doctor")
    assert found.code == 1
    assert 'pip install "theworld-encoders[cosmos]"' in found.err


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        (["torch>=2.10"], None),
        (["torch>=99"], "needs torch>=99, and 2."),
        (["no-such-thing>=1"], "needs no-such-thing>=1, and none is installed"),
        (['no-such-thing>=1; extra == "lora"'], None),
        (['no-such-thing>=1; python_version < "3"'], None),
        (None, None),
    ],
)
def test_requirements_that_are_not_met(
    wishes: list[str] | None, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: wishes)
    problems = doctor.broken_requirements("theworld-train")
    assert len(problems) == (0 if says is None else 1)
    assert says is None or says in problems[0]


def test_a_package_that_is_not_there() -> None:
    assert "theworld-nothing is not installed" in doctor.broken_requirements("theworld-nothing")[0]


def test_a_cache_that_cannot_be_written(theworld: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file/hub"))
    found = theworld("doctor")
    assert found.code == 1
    assert "cannot be written. Set HF_HUB_CACHE" in found.err
