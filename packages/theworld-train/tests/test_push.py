"""``theworld push`` against a stand-in for the hub: what arrives, what it is elsewhere, and what never leaves."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from theworld_fusion import load_adapter, load_model, load_processor
from theworld_fusion.testing import chat, encode, random_clip, random_picture
from theworld_train.bases import find_bases
from theworld_train.card import make_card
from theworld_train.checkpoints import newest, record
from theworld_train.errors import UsageError
from theworld_train.push import adapter_files, check_private, find_checkpoint, secrets_of, write_whole
from theworld_train.recipe_file import dump_recipe, load_recipe
from theworld_train.run import run_recipe

TOKEN = "hf_writer"
CHATS = [chat(random_clip(1)), chat(random_picture(2), text="And this?")]
SMALL = (
    "stages.0.data.sources.0.limit=40",
    "stages.0.data.sources.0.groups=8",
    "stages.0.data.holdout=0.5",
    "eval.every=1",
    "eval.examples=2",
    "eval.samples=2",
    "eval.max_new_tokens=4",
)
LORA = "stages.0.parts.language_model={lora: {rank: 2}}"

MANY = """
import contextlib, io, json, os, sys
from theworld_train.cli import main
done = []
for token, *arguments in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": token} if token else {})
    sys.argv, code = ["theworld", *arguments], 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as exit:
            code = exit.code or 0
    done.append([code, out.getvalue(), err.getvalue()])
json.dump(done, sys.stdout)
"""
"""Several commands in one process: most of a command's time is imports."""

SNIPPET = """
import sys, torch
from pathlib import Path
from theworld_fusion.testing import chat, encode, random_clip, random_picture
names = {}
exec(Path(sys.argv[1]).read_text(), names)
chats = [chat(random_clip(1)), chat(random_picture(2), text="And this?")]
with torch.no_grad():
    for parameter in names["model"].parameters():
        parameter.data = parameter.clone()
    torch.save(names["model"](**encode(names["processor"], chats)).logits, sys.argv[2])
"""
"""What a reader of the card does, and the logits that the model then gives.

Weights are mapped from their file at its offsets, and CPU kernels round by the alignment: copies are aligned alike.
"""


@dataclass(frozen=True, kw_only=True)
class Hub:
    url: str
    folder: Path

    def repos(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    def files(self, repo: str, branch: str = "main") -> set[str]:
        state = self.repos()[repo]
        return set(state["commits"][state["branches"][branch]]["files"]) - {".gitattributes"}

    def environment(self, cache: Path, **others: str) -> dict[str, str]:
        """Of a process that knows nothing but this hub."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return kept | {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **others}

    def theworld(self, cache: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of each command; the first word of a command is its token."""
        ours = ["-W", "error", "-W", "ignore:Use 'content=<...>' to upload:DeprecationWarning"]  # huggingface_hub's own
        run = [sys.executable, *ours, "-c", MANY, json.dumps(commands)]
        done = subprocess.run(
            run, env=self.environment(cache), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return [tuple(one) for one in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield Hub(url=f"http://127.0.0.1:{int(server.stdout.readline())}", folder=folder)
        server.stdin.close()
        server.wait(10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with a token in the environment. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("WANDB_API_KEY", TOKEN)
        run_recipe(load_recipe("smoke", SMALL), folder)
    return folder


@pytest.fixture(scope="module")
def pushed(hub: Hub, run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, str]]:
    """The run, as an adapter and whole; the adapter again, and an earlier one onto it; and to a branch."""
    commands = [
        [TOKEN, "push", str(run), "--repo", "me/adapter"],
        [TOKEN, "push", str(run), "--repo", "me/whole", "--full", "--private"],
        [TOKEN, "push", str(run), "--repo", "me/adapter", "--message", "Nothing new"],
        [TOKEN, "push", str(run / "checkpoint-1"), "--repo", "me/adapter", "--revision", "early", "--message", "Early"],
    ]
    return hub.theworld(tmp_path_factory.mktemp("cache"), *commands)


@torch.no_grad()
def logits(model: Any, processor: Any) -> torch.Tensor:
    return model(**encode(processor, CHATS)).logits


def expected(checkpoint: Path) -> torch.Tensor:
    model, processor = load_adapter(checkpoint)
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()
    return logits(model, processor)


def follow_card(hub: Hub, repo: str, folder: Path, **environment: str) -> torch.Tensor:
    """Run the card's Python where its picture is, in a fresh process; gives the logits of what it loaded."""
    state = hub.repos()[repo]
    digest = state["commits"][state["branches"]["main"]]["files"]["README.md"]
    [code] = re.findall(r"^```python\n(.*?)^```", blob(hub, digest), flags=re.DOTALL | re.MULTILINE)
    Image.new("RGB", (64, 48), "teal").save(folder / "photo.jpg")
    (folder / "card.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SNIPPET, "card.py", "logits.pt"],
        cwd=folder,
        env=hub.environment(folder / "cache", **environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "logits.pt")


def blob(hub: Hub, digest: str) -> str:
    return (hub.folder / "blobs" / digest).read_text()


ADAPTER = {"README.md", "theworld_adapter.json", "theworld_adapter.safetensors"}


def test_an_adapter_arrives_and_is_the_same_elsewhere(
    hub: Hub, run: Path, pushed: list[tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = pushed[0]
    assert code == 0
    assert out.startswith(f"{hub.url}/me/adapter/commit/")
    assert {name for name in hub.files("me/adapter") if not name.startswith("bases/")} == ADAPTER
    wanted = expected(run / "checkpoint-2")
    assert torch.equal(follow_card(hub, "me/adapter", tmp_path), wanted)
    fetched = [path.name for path in (tmp_path / "cache/hub/models--me--adapter/snapshots").glob("*/*")]
    assert sorted(fetched) == ["bases", "theworld_adapter.json", "theworld_adapter.safetensors"]
    assert torch.equal(follow_card(hub, "me/adapter", tmp_path, HF_HUB_OFFLINE="1"), wanted)
    question = ["answer", "What is it?", "--image", str(tmp_path / "photo.jpg"), "--max-new-tokens", "3", "--model"]
    here, gone = hub.theworld(tmp_path / "cache", ["", *question, "me/adapter"], ["", *question, "me/missing"])
    assert here[0] == 0, here[2]
    assert here[1]
    assert gone[0] == 2
    assert "me/missing is no checkpoint here and the hub did not give it" in gone[2]
    assert len(gone[2].strip().splitlines()) == 1


def test_a_whole_model_arrives_and_is_the_same_elsewhere(
    hub: Hub, run: Path, pushed: list[tuple[int, str, str]], tmp_path: Path
) -> None:
    assert pushed[1][0] == 0
    assert {"README.md", "config.json", "model.safetensors", "theworld_shim.py"} <= hub.files("me/whole")
    assert hub.repos()["me/whole"]["private"]
    assert not hub.repos()["me/adapter"]["private"]
    assert torch.equal(follow_card(hub, "me/whole", tmp_path, HF_TOKEN="hf_reader"), expected(run / "checkpoint-2"))


def test_again_makes_a_commit_if_there_is_something_new(hub: Hub, pushed: list[tuple[int, str, str]]) -> None:
    assert [one[0] for one in pushed] == [0, 0, 0, 0]
    assert pushed[2][1] == pushed[0][1]
    state = hub.repos()["me/adapter"]
    messages = [one["message"] for one in state["commits"].values()]
    assert messages == ["initial commit", "smoke, step 2", "Early"]
    assert set(state["branches"]) == {"main", "early"}
    assert "step 1 of 2" in blob(hub, state["commits"][state["branches"]["early"]]["files"]["README.md"])


def test_the_token_and_this_machines_paths_stay_here(
    hub: Hub, run: Path, pushed: list[tuple[int, str, str]], tmp_path: Path
) -> None:
    sent = (hub.folder / "requests").read_bytes()
    assert len(sent) > 1e6
    for secret in (TOKEN, str(run), str(Path.home()) + "/", str(tmp_path.parent)):
        assert secret.encode() not in sent
    for content in (hub.folder / "blobs").iterdir():
        assert str(run).encode() not in content.read_bytes()
    assert TOKEN not in json.dumps(pushed)
    assert not [path for path in run.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_what_the_hub_refuses_is_one_line(
    hub: Hub, run: Path, pushed: list[tuple[int, str, str]], tmp_path: Path
) -> None:
    push = ["push", str(run), "--repo"]
    before = hub.repos()
    done = hub.theworld(
        tmp_path,
        ["", *push, "me/new"],
        ["hf_stranger", *push, "me/new"],
        ["hf_reader", *push, "me/new"],
        ["hf_reader", *push, "me/adapter"],
        [TOKEN, *push, "me/adapter", "--private"],
        [TOKEN, *push, "me/adapter", "--full"],
        [TOKEN, *push, "me/whole"],
        [TOKEN, *push, "me"],
        [TOKEN, "push", str(tmp_path), "--repo", "me/new"],
    )
    texts = [
        "there is no token of the hub. Log in (hf auth login), or set HF_TOKEN.",
        "the hub does not know the token (401). Log in anew: hf auth login, or set HF_TOKEN.",
        "the token may not write to me/new (403). Use one with write access to it.",
        "the token may not write to me/adapter (403). Use one with write access to it.",
        "me/adapter is there already, and public. Make it private on the hub, or leave --private out.",
        "me/adapter holds an adapter, and this is a whole model: ",
        "me/whole holds a whole model, and this is an adapter: ",
        "--repo is me, which has no owner. Give it as owner/name.",
        "holds no whole checkpoint of theworld train.",
    ]
    for (code, out, error), text in zip(done, texts, strict=True):
        assert (code, out) == (2, "")
        assert text in error
        line = error.strip().splitlines()[-1]
        assert line.startswith("theworld: ")
        assert "hf_" not in line.replace("hf auth", "")
    assert hub.repos() == before


def test_a_dry_run_writes_nothing_and_asks_nobody(hub: Hub, run: Path, tmp_path: Path) -> None:
    asked = (hub.folder / "requests").read_bytes() if (hub.folder / "requests").exists() else b""
    there = sorted(run.rglob("*"))
    [(code, out, _)] = hub.theworld(tmp_path / "cache", ["", "push", str(run), "--repo", "me/dry", "--dry-run"])
    assert code == 0
    weights = (run / "checkpoint-2/theworld_adapter.safetensors").stat().st_size
    assert f"{weights:,}  theworld_adapter.safetensors" in out
    assert "\nlicense: apache-2.0\n" in out
    assert sorted(run.rglob("*")) == there
    assert ((hub.folder / "requests").read_bytes() if (hub.folder / "requests").exists() else b"") == asked


def edited(run: Path, folder: Path, *changes: str, **assembly: Any) -> Path:
    """A copy of the run whose newest checkpoint has another recipe, and other bases."""
    copy = shutil.copytree(run, folder / "edited")
    found = newest(copy)
    assert found is not None
    checkpoint = found[1]
    recipe = load_recipe(str(checkpoint / "recipe.yaml"), changes)
    (checkpoint / "recipe.yaml").write_text(dump_recipe(recipe))
    description = json.loads((checkpoint / "theworld_adapter.json").read_text())
    description["assembly"] |= assembly
    (checkpoint / "theworld_adapter.json").write_text(json.dumps(description))
    record(checkpoint)
    return copy


def test_an_adapter_needs_bases_that_others_have(run: Path, tmp_path: Path) -> None:
    copy = edited(run, tmp_path, "model.vlm=/data/gemma", vlm="/data/gemma", world=None)
    checkpoint = find_checkpoint(copy)
    assembly = checkpoint.description()["assembly"]
    with pytest.raises(UsageError, match=r"goes onto /data/gemma, a vlm that nobody else has\. .*--base-vlm.*--full"):
        adapter_files(checkpoint, find_bases(assembly, checkpoint.toy, {}))
    with pytest.raises(UsageError, match="--base-vlm is /data/other, which is no name on the hub"):
        find_bases(assembly, checkpoint.toy, {"vlm": "/data/other"})
    bases = find_bases(assembly, checkpoint.toy, {"vlm": "google/gemma-3-4b-it"})
    files = adapter_files(checkpoint, bases)
    assert set(files) == ADAPTER - {"README.md"}
    written = json.loads(bytes(files["theworld_adapter.json"]))  # pyright: ignore[reportArgumentType]
    assert (written["assembly"]["vlm"], written["assembly"]["world"]) == ("google/gemma-3-4b-it", None)
    check_private(files, secrets_of(checkpoint, bases, None))
    bases = find_bases({**assembly, "vlm": "models/gemma"}, checkpoint.toy, {})
    assert [base.hub_id for base in bases] == [None, "nvidia/Cosmos-Predict2-2B-Video2World"]
    bases = find_bases({**assembly, "vlm": "gemma"}, checkpoint.toy, {})
    check_private({"README.md": b"gemma"}, secrets_of(checkpoint, bases, None))
    with pytest.raises(UsageError, match="is a toy, which goes along"):
        find_bases(assembly, tmp_path, {"vlm": "google/gemma-3-4b-it"})


def test_the_card_says_what_the_files_say(run: Path, tmp_path: Path) -> None:
    copy = edited(
        run,
        tmp_path,
        "model.vlm=google/gemma-3-4b-it",
        "stages.0.data.sources=[{kind: vsr, images: /data/coco}, {kind: chat, path: /data/secret.jsonl, weight: 3}]",
        "stages.0.steps=5",
        vlm="google/gemma-3-4b-it",
        world=None,
        revision="0123456789abcdef0123456789abcdef01234567",
    )
    (copy / "log.jsonl").write_text(
        '{"step": 1, "eval_loss": 0.5}\n{"step": 2, "loss": 0.25}\n{"step": 9, "loss": 9}\n'
    )
    (copy / "vsr.json").write_text('{"accuracy": {"on": 0.625}, "file": "/data/coco", "done": true}')
    sample = {"step": 2, "question": "Which | way?", "wanted": "<b>left</b>", "answer": "up\nand /data/x"}
    (copy / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    checkpoint = find_checkpoint(copy)
    bases = find_bases(checkpoint.description()["assembly"], checkpoint.toy, {})
    card = make_card(checkpoint, bases, "me/gemma", revision="v2")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["base_model"] == ["google/gemma-3-4b-it", "nvidia/Cosmos-Predict2-2B-Video2World"]
    assert metadata["base_model_relation"] == "adapter"
    assert metadata["license"] == "gemma"
    assert metadata["datasets"] == ["cambridgeltl/vsr_random"]
    assert metadata["pipeline_tag"] == "image-text-to-text"
    for text in (
        "[google/gemma-3-4b-it](https://huggingface.co/google/gemma-3-4b-it) at `0123456789ab`",
        "[Gemma Terms of Use](https://ai.google.dev/gemma/terms)",
        "[NVIDIA Open Model License](https://",
        "2 of 5 steps",
        "Training had 3 steps to go",
        "chat (local files) 75%",
        "Training loss at step 2: 0.25 nats",
        "Loss on held-out examples at step 1: 0.5 nats",
        "| vsr.json | accuracy.on | 0.625 |",
        r"| Which \| way? | \<b\>left\</b\> | up and /data/x |",
        'load_adapter("me/gemma", revision="v2")',
        "torch " + torch.__version__,
    ):
        assert text in card
    for text in ("/data/coco", "secret", str(copy), "toy", "theworld answer", "No benchmark"):
        assert text not in card
    whole = yaml.safe_load(make_card(checkpoint, bases, "me/gemma", whole=True).split("---\n")[1])
    assert (whole["base_model_relation"], whole["library_name"]) == ("finetune", "transformers")


def test_a_card_of_a_bare_run_claims_nothing(run: Path, tmp_path: Path) -> None:
    copy = edited(run, tmp_path)
    (copy / "log.jsonl").unlink()
    (copy / "samples.jsonl").unlink()
    checkpoint = find_checkpoint(copy)
    card = make_card(checkpoint, find_bases(checkpoint.description()["assembly"], checkpoint.toy, {}), "me/toy")
    assert "No loss was logged up to this step." in card
    assert "No benchmark was run." in card
    assert "**It is a toy**" in card
    assert "base_model" not in card
    (copy / "vsr.json").write_text("{")
    with pytest.raises(UsageError, match=r"vsr\.json is no JSON .* Mend or remove it"):
        make_card(checkpoint, [], "me/toy")


def test_a_checkpoint_that_is_not_whole_is_not_pushed(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "checkpoint-2/optimizer.pt").unlink()
    with pytest.raises(UsageError, match="holds no whole checkpoint"):
        find_checkpoint(copy / "checkpoint-2")


def test_a_path_that_got_into_a_file_stops_the_push() -> None:
    files: dict[str, Any] = {"config.json": b'{"_name_or_path": "/home/me/gemma"}', "tokenizer.json": b"/home/me/"}
    check_private({"tokenizer.json": files["tokenizer.json"]}, {"/home/me/": "a path of this machine"})
    with pytest.raises(UsageError, match=r"config\.json would hold a path of this machine\. Nothing was uploaded"):
        check_private(files, {"/home/me/": "a path of this machine"})


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it
def test_lora_is_named_nowhere_and_becomes_part_of_a_whole_model(tmp_path: Path) -> None:
    run_recipe(load_recipe("smoke", (LORA, "optim.lr=0.1")), tmp_path / "run")
    checkpoint = find_checkpoint(tmp_path / "run")
    write_whole(checkpoint, tmp_path / "whole")
    whole = load_model(tmp_path / "whole")
    assert not [name for name, _ in whole.named_parameters() if "lora" in name]
    model, processor = load_adapter(checkpoint.folder)
    with_lora = logits(model, processor)
    model.disable_adapters()
    assert not torch.allclose(logits(model, processor), with_lora, atol=1e-2)
    merged = logits(whole, load_processor(tmp_path / "whole"))
    torch.testing.assert_close(merged, with_lora, atol=1e-4, rtol=1e-4)
    bases = find_bases(checkpoint.description()["assembly"], checkpoint.toy, {})
    check_private(adapter_files(checkpoint, bases), secrets_of(checkpoint, bases, None))
