"""Saved folders load in a process that never imported us, and ask nothing of one that did."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from theworld_fusion import TheWorldConfig, TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode, random_picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
SHIM = "theworld_shim.py"

STRANGER = """
import json, sys
from pathlib import Path
import torch, transformers
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_class_from_dynamic_module

first, folder, inputs, output, again = sys.argv[1:]
assert not any(name.startswith("theworld") for name in sys.modules)
getattr(transformers, first).from_pretrained(folder, trust_remote_code=True)
loaded = [
    getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    for auto in ("AutoConfig", "AutoProcessor", "AutoModelForImageTextToText")
]
config, processor, model = loaded

import theworld_fusion as ours
wanted = [ours.TheWorldConfig, ours.TheWorldProcessor, ours.TheWorldForConditionalGeneration]
assert [type(item) for item in loaded] == wanted, loaded
assert not any(type(item)._auto_class for item in loaded)  # it would copy our source files into every saved folder
for file in ("config.json", "processor_config.json"):
    for auto, reference in json.loads(Path(folder, file).read_text())["auto_map"].items():
        found = get_class_from_dynamic_module(reference, folder)
        assert found is getattr(ours, reference.partition(".")[2])
        if auto.startswith("AutoModel"):
            assert getattr(transformers, auto)._model_mapping[type(config)] is found
with torch.no_grad():
    save_file({"logits": model(**load_file(inputs)).logits}, output)
model.save_pretrained(again)
processor.save_pretrained(again)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def saved(build: Callable[..., Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for part in build():  # not the shared pair: a tokenizer that has padded writes so into its file
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("first", ["AutoConfig", "AutoProcessor", "AutoModelForImageTextToText", "AutoTokenizer"])
def test_a_process_that_never_imported_us(pair: Pair, saved: Path, tmp_path: Path, first: str) -> None:
    model, processor = pair
    inputs = {key: value.contiguous() for key, value in encode(processor, chat(random_picture(0))).items()}
    save_file(inputs, tmp_path / "inputs")
    again = tmp_path / "again"
    command = [sys.executable, "-c", STRANGER, first, saved, tmp_path / "inputs", tmp_path / "logits", again]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "logits")["logits"], model(**inputs).logits)
    assert contents(again) == contents(saved)


def test_either_order_gives_the_same_folder(build: Callable[..., Pair], saved: Path, tmp_path: Path) -> None:
    for part in reversed(build()):
        part.save_pretrained(tmp_path)
    assert contents(tmp_path) == contents(saved)


def test_each_half_alone_has_the_shim(pair: Pair, tmp_path: Path) -> None:
    for index, part in enumerate((*pair, pair[0].config)):
        part.save_pretrained(tmp_path / str(index))
        assert "raise ImportError" in (tmp_path / str(index) / SHIM).read_text()


@pytest.mark.parametrize("shim", ["raise RuntimeError('the shim ran')", None])
@pytest.mark.parametrize("trust", [None, False, True])
def test_a_process_that_imported_us_runs_nothing_from_the_folder_and_is_not_asked(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shim: str | None, trust: bool | None
) -> None:
    for part in pair:
        part.save_pretrained(tmp_path)
    (tmp_path / SHIM).unlink()
    if shim:
        (tmp_path / SHIM).write_text(shim)
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail(prompt))
    for auto, wanted in (
        (AutoConfig, TheWorldConfig),
        (AutoProcessor, TheWorldProcessor),
        (AutoModelForImageTextToText, TheWorldForConditionalGeneration),
    ):
        assert type(auto.from_pretrained(tmp_path, trust_remote_code=trust)) is wanted


def test_without_our_package_the_error_names_the_command(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "theworld_fusion", None)  # what Python does where a package is not installed
    with pytest.raises(ImportError, match="Run: pip install theworld-fusion"):
        runpy.run_path(str(saved / SHIM))


def test_pushing_is_transformers_own_and_uploads_the_shim(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads: list[set[str]] = []
    hub = SimpleNamespace(
        create_repo=lambda *_, **__: SimpleNamespace(repo_id="me/model"),
        create_commit=lambda *, operations, **_: uploads.append({item.path_in_repo for item in operations}),
    )
    for module in ("utils.hub", "modeling_utils", "processing_utils", "configuration_utils"):
        monkeypatch.setattr(f"transformers.{module}.hf_api", lambda: hub)
    card = SimpleNamespace(save=lambda path: Path(path).touch())
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: card)
    parts = (*pair, pair[0].config)
    for part, base in zip(parts, (PreTrainedModel, ProcessorMixin, PreTrainedConfig), strict=True):
        assert type(part).push_to_hub is base.push_to_hub
        part.push_to_hub("me/model")
    for part in parts:
        part.save_pretrained(str(tmp_path), push_to_hub=True)
    assert len(uploads) == 6
    assert all(SHIM in files for files in uploads)


def test_a_subclass_that_registers_itself_keeps_its_own_entry(tmp_path: Path) -> None:
    class MyConfig(TheWorldConfig):
        pass

    MyConfig.register_for_auto_class()
    MyConfig().save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert entries["AutoConfig"] == "test_remote_code.MyConfig"
    assert entries["AutoModel"] == "theworld_shim.TheWorldModel"
    assert "MyConfig" not in json.dumps(TheWorldConfig().to_dict())
