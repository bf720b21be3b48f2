"""Names, and what an encoder costs before it is asked for."""

import subprocess
import sys

import pytest

from theworld_encoders import EncoderError, list_encoders, load_encoder, spec_of
from theworld_encoders.registry import encoder_class


def test_list() -> None:
    assert "cosmos-predict2-vae" in list_encoders()
    assert list_encoders() == sorted(list_encoders())


def test_every_listed_encoder_has_a_spec_of_its_name() -> None:
    for name in list_encoders():
        assert spec_of(name).name == name


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(EncoderError, match=r"no encoder called 'cosmos'\. Known encoders: .*cosmos-predict2-vae"):
        load_encoder("cosmos")


@pytest.mark.parametrize("source", ["nowhere/at/all", "./nowhere", "/nowhere"])
def test_a_folder_that_is_not_there(source: str) -> None:
    with pytest.raises(EncoderError, match=f"there is no folder {source}"):
        load_encoder("cosmos-predict2-vae", source)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=r"owner/name is no folder here and the hub did not give it"):
        load_encoder("cosmos-predict2-vae", "owner/name")


def test_a_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders", None)
    with pytest.raises(EncoderError, match=r'pip install "theworld-encoders\[cosmos\]"'):
        encoder_class("cosmos-predict2-vae").from_config({})


def test_specs_need_no_diffusers() -> None:
    script = (
        "import sys, theworld_encoders as t; [t.spec_of(n) for n in t.list_encoders()]; "
        "sys.exit(' '.join(m for m in ('diffusers', 'transformers', 'av') if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"imported: {result.stderr}"
