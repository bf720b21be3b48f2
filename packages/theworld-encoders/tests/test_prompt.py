"""The empty prompt's embedding is what the pipelines would compute; without it the error has the command."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.pipelines.cosmos.pipeline_cosmos2_video2world import Cosmos2VideoToWorldPipeline
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel, T5Tokenizer, UMT5Config, UMT5EncoderModel

from theworld_encoders import EncoderError, load_encoder
from theworld_encoders.prompt import PROMPT_FILE, PROMPT_KEY, export_prompt
from theworld_encoders.testing import TINY_FRAME_SIZE, make_tiny_dit_folder

SIZES: dict[str, Any] = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2, "vocab_size": 8}


def add_text_encoder(folder: Path, model: Any) -> Any:
    """Write the model; returns a tokenizer for it, which the pipelines use and we do not."""
    model.save_pretrained(folder / "text_encoder")
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), ("a", -2.0)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    return tokenizer


@pytest.mark.parametrize("kind", ["t5", "umt5"])
def test_the_export_is_what_the_pipelines_compute(kind: str, tmp_path: Path) -> None:
    model = T5EncoderModel(T5Config(**SIZES)) if kind == "t5" else UMT5EncoderModel(UMT5Config(**SIZES))
    tokenizer = add_text_encoder(tmp_path, model.eval())
    assert export_prompt(tmp_path) == tmp_path / PROMPT_FILE
    written = load_file(tmp_path / PROMPT_FILE)[PROMPT_KEY]
    pipeline: Any = SimpleNamespace(tokenizer=tokenizer, text_encoder=model, _execution_device="cpu")
    with torch.no_grad():
        wanted = Cosmos2VideoToWorldPipeline._get_t5_prompt_embeds(pipeline, "")
    assert written.shape == (512, 24)
    assert written[0].abs().max() > 0
    assert not written[1:].any()
    torch.testing.assert_close(written[None], wanted)


def test_the_command_of_the_error_mends_it(tmp_path: Path) -> None:
    folder = make_tiny_dit_folder(tmp_path)
    (folder / PROMPT_FILE).unlink()
    add_text_encoder(folder, T5EncoderModel(T5Config(**SIZES)))

    def load() -> Any:
        return load_encoder("cosmos-predict2-dit", folder, frame_size=TINY_FRAME_SIZE, block=1)

    with pytest.raises(EncoderError, match=f"has no {PROMPT_FILE}.* Make it once: python -m") as caught:
        load()
    command = str(caught.value).partition("Make it once: python ")[2].split()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    assert load().config["prompt_tokens"] == 512


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: save_file({"other": torch.zeros(1)}, folder / PROMPT_FILE), f"holds no {PROMPT_KEY}.* again: "),
        (lambda folder: (folder / PROMPT_FILE).write_bytes(b"nothing"), f"holds no {PROMPT_KEY}.* again: "),
        (
            lambda folder: save_file({PROMPT_KEY: torch.zeros(8, 3)}, folder / PROMPT_FILE),
            r"is \(8, 3\), not \(8, 24\)",
        ),
    ],
)
def test_a_damaged_file_is_refused(damage: Any, message: str, tmp_path: Path) -> None:
    folder = make_tiny_dit_folder(tmp_path)
    damage(folder)
    with pytest.raises(EncoderError, match=message):
        load_encoder("cosmos-predict2-dit", folder, frame_size=TINY_FRAME_SIZE, block=1)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"has no text_encoder/config\.json"):
        export_prompt(tmp_path)
    (tmp_path / "text_encoder").mkdir()
    config = tmp_path / "text_encoder/config.json"
    config.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(EncoderError, match="describes bert, not t5 or umt5"):
        export_prompt(tmp_path)
    config.write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(EncoderError, match="has no readable weights"):
        export_prompt(tmp_path)


def test_a_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_text_encoder(tmp_path, T5EncoderModel(T5Config(**SIZES)))
    monkeypatch.setitem(sys.modules, "transformers.models.t5.modeling_t5", None)
    with pytest.raises(EncoderError, match=r'pip install "theworld-encoders\[prompt\]"'):
        export_prompt(tmp_path)
