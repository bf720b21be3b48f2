"""Names, and what an encoder costs before it is asked for."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from theworld_encoders import EncoderError, list_controls, list_encoders, load_encoder, spec_of
from theworld_encoders.registry import ENTRY_POINT_GROUP, encoder_class


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


def test_controls_are_listed_apart_and_resolve_around_every_encoder() -> None:
    assert list_controls() == sorted(list_controls())
    assert {"zeros", "registers"} <= set(list_controls())
    assert not set(list_controls()) & set(list_encoders())
    for encoder in list_encoders():
        assert spec_of(f"zeros:{encoder}").name == f"zeros:{encoder}"
    assert encoder_class("zeros") is encoder_class("zeros")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zeros:noise", r"'zeros:noise' puts a control around a control\. Use zeros:encoder"),
        ("zeros:noise:cosmos-predict2-vae", "puts a control around a control"),
        ("zeros:siglop", "puts zeros around 'siglop', which is no encoder"),
        ("zeros:", "puts zeros around '', which is no encoder"),
        ("zeroes", r"no encoder called 'zeroes'\. .*Controls, .*: .*zeros\. Did you mean zeros\?"),
        ("zeros:cosmos-predict-vae", r"Did you mean zeros:cosmos-predict2-vae\?"),
        ("zeroes:cosmos-predict2-vae", r"Did you mean zeros:cosmos-predict2-vae\?"),
        ("cosmos-predict2-vea", r"Known encoders: .*cosmos-predict2-vae.*\. Did you mean cosmos-predict2-vae\?"),
    ],
)
def test_names_that_do_not_resolve(name: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        encoder_class(name)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution that offers an encoder; its module is called as it is."""

    def install(encoder: str, source: str, distribution: str = "acme") -> None:
        info = tmp_path / f"{distribution}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{encoder} = {distribution}_module:Own\n")
        (tmp_path / f"{distribution}_module.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, f"{distribution}_module", raising=False)

    return install


OWN = """
from dataclasses import replace
from theworld_encoders.wan_vae import CosmosPredict2Vae
class Own(CosmosPredict2Vae):
    published = replace(CosmosPredict2Vae.published, name="own")
"""


def test_a_plugin_is_listed_loaded_and_wrapped(plugin: Callable[..., None]) -> None:
    plugin("own", OWN)
    assert "own" in list_encoders()
    assert encoder_class("own").__module__ == "acme_module"
    assert spec_of("zeros:own").name == "zeros:own"


@pytest.mark.parametrize("name", ["cosmos-predict2-vae", "noise", "a:b"])
def test_ours_keep_their_names(plugin: Callable[..., None], name: str) -> None:
    plugin(name, OWN)
    reason = "has a colon" if name == "a:b" else "is taken"
    with pytest.warns(UserWarning, match=f"acme 1.2 offers an encoder called '{name}', a name that {reason}"):
        names = list_encoders()
    assert names.count(name) == (name == "cosmos-predict2-vae")
    if name != "a:b":
        assert encoder_class(name).__module__.startswith("theworld_encoders.")


def test_of_two_plugins_with_one_name_the_first_distribution_has_it(plugin: Callable[..., None]) -> None:
    plugin("own", OWN, "zeta")
    plugin("own", OWN, "acme")
    with pytest.warns(UserWarning, match="zeta 1.2 offers an encoder called 'own', a name that is taken"):
        assert encoder_class("own").__module__ == "acme_module"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_that_name", r"cannot be imported \(ModuleNotFoundError: No module named"),
        ("1 / 0", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("x = 1", r"cannot be imported \(AttributeError"),
        ("Own = dict", "is no subclass of Encoder"),
    ],
)
def test_a_broken_plugin_names_its_distribution(plugin: Callable[..., None], source: str, message: str) -> None:
    plugin("own", source)
    assert "own" in list_encoders()
    with pytest.raises(EncoderError, match=f"acme_module:Own of acme 1.2, the encoder 'own', {message}"):
        encoder_class("own")
