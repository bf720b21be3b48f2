"""The model that lmms-eval gets: its requests are answered as we answer.

Where lmms-eval is not installed, stand-ins have the signatures of its version 0.7.3; ``nox -s lmms_eval`` has the real
one, and runs a task of it.
"""

import abc
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode, random_clip, random_picture
from theworld_train.errors import UsageError

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
REAL = importlib.util.find_spec("lmms_eval") is not None


class lmms(abc.ABC):
    """Stand-in: what the base class has that models use."""

    is_simple: bool = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}
        self.cache_hook = CacheHook()

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...


class CacheHook:
    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        pass


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Request:
    args: tuple[Any, ...]
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def plugin() -> Iterator[Any]:
    """The module as lmms-eval imports it."""
    contents = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": lmms},
        "lmms_eval.api.instance": {"GenerationResult": GenerationResult, "TokenCounts": TokenCounts},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, values in () if REAL else contents.items():
            module = ModuleType(name)
            vars(module).update(values)
            patch.setitem(sys.modules, name, module)
        yield importlib.import_module("theworld_train.lmms_eval.models")
        sys.modules.pop("theworld_train.lmms_eval.models", None)


@pytest.fixture
def make(plugin: Any, talking: Path) -> Callable[..., Any]:
    def make(kind: str, **settings: Any) -> Any:
        model = getattr(plugin, kind)(pretrained=str(talking), device="cpu", **settings)
        model.task_dict = {"toy": {"test": DOCUMENTS}}
        return model

    return make


DOCUMENTS = [
    {"question": "What is it?", "image": random_picture(1)},
    {"question": "And now?", "image": random_picture(2)},
    {"question": "Which way?", "video": random_clip(3)},
]


def to_messages(document: dict[str, Any]) -> list[dict[str, Any]]:
    kind = "image" if "image" in document else "video"
    blocks = [{"type": kind, "url": document[kind]}, {"type": "text", "text": document["question"]}]
    return [{"role": "user", "content": blocks}]


def to_visual(document: dict[str, Any]) -> list[Any]:
    return [document.get("image", document.get("video"))]


def wanted(talker: Pair, number: int, world: str = "on", length: int = 6, **settings: Any) -> str:
    document = DOCUMENTS[number]
    inputs = encode(talker[1], [chat(*to_visual(document), text=document["question"])], world=world)
    ids = talker[0].generate(**inputs, max_new_tokens=length, **{"do_sample": False, **settings})  # pyright: ignore[reportAttributeAccessIssue]
    return talker[1].decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_the_registry_finds_both_classes(plugin: Any) -> None:
    [entry] = [one for one in entry_points(group="lmms_eval.models") if one.name == "theworld"]
    found = entry.load()()
    assert plugin.__name__ == "theworld_train.lmms_eval.models"
    assert found.model_id == "theworld"
    for path, simple in ((found.chat_class_path, False), (found.simple_class_path, True)):
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name).is_simple is simple


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("arm", ["on", "off"])
def test_both_kinds_of_task_get_what_generate_says(make: Any, talker: Pair, arm: str, batch_size: int) -> None:
    settings = {"max_new_tokens": 6, "until": ["\n\n"], "temperature": 0}
    expected = [wanted(talker, number, arm) for number in range(3)]
    asked = [
        Request((f"<image>{one['question']}", settings, to_visual, n, "toy", "test")) for n, one in enumerate(DOCUMENTS)
    ]
    given = make("TheWorldSimple", arm=arm, batch_size=batch_size).generate_until(asked)
    assert [one.text for one in given] == expected
    assert all(0 < one.token_counts.output_tokens <= 6 for one in given)
    asked = [Request((one["question"], to_messages, settings, n, "toy", "test")) for n, one in enumerate(DOCUMENTS)]
    assert make("TheWorldChat", arm=arm, batch_size=batch_size).generate_until(asked) == given
    assert len(set(expected)) > 1


def test_settings_of_the_task_hold_and_order_stays(make: Any, talker: Pair) -> None:
    kinds: list[dict[str, Any]] = [{"max_new_tokens": 4}, {"max_new_tokens": 8, "num_beams": 2}, {"max_new_tokens": 4}]
    asked = [Request((DOCUMENTS[n]["question"], one, to_visual, n, "toy", "test")) for n, one in enumerate(kinds)]
    given = [one.text for one in make("TheWorldSimple", batch_size=8).generate_until(asked)]
    assert given == [wanted(talker, 0, length=4), wanted(talker, 1, length=8, num_beams=2), wanted(talker, 2, length=4)]


def test_answers_end_at_the_task_s_stops(plugin: Any, make: Any) -> None:
    model = make("TheWorldSimple")
    settings: dict[str, Any] = {"max_new_tokens": 12}
    [whole] = model.generate_until([Request(("What is it?", settings, to_visual, 0, "toy", "test"))])
    assert len(whole.text) > 3
    for stop in (whole.text[2], [whole.text[2]], ["\n\n", whole.text[2]]):
        [cut] = model.generate_until(
            [Request(("What is it?", {**settings, "until": stop}, to_visual, 0, "toy", "test"))]
        )
        assert cut.text == whole.text.split(whole.text[2])[0].strip()
    assert plugin.decoding({"temperature": 0.7, "top_p": 0.9, "top_k": None}) == {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
    }


@pytest.mark.parametrize("batch_size", [1, 4])
def test_likelihoods_are_of_the_continuation_and_greedy_is_what_generate_says(
    make: Any, talker: Pair, batch_size: int
) -> None:
    asked = [
        Request((DOCUMENTS[0]["question"], " a dog", to_visual, 0, "toy", "test")),
        Request((DOCUMENTS[1]["question"], lambda document: "two cats", to_visual, 1, "toy", "test")),
    ]
    found = make("TheWorldSimple", batch_size=batch_size).loglikelihood(asked)
    for (value, greedy), number, text in zip(found, (0, 1), ("a dog", "two cats"), strict=True):
        document = DOCUMENTS[number]
        inputs = encode(talker[1], [chat(*to_visual(document), text=document["question"])])
        tokens = talker[1].tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        count = tokens.shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
        for name in ("attention_mask", "token_type_ids"):
            extra = torch.full_like(tokens, int(name == "attention_mask"))
            inputs[name] = torch.cat([inputs[name], extra], 1)
        with torch.no_grad():
            logits = talker[0](**inputs).logits[0, -count - 1 : -1].log_softmax(-1)
        assert value == pytest.approx(float(logits.gather(-1, tokens.T).sum()), abs=1e-3)
        assert greedy == torch.equal(logits.argmax(-1), tokens[0])


def test_what_theworld_cannot_do_is_said(plugin: Any, make: Any) -> None:
    with pytest.raises(UsageError, match="Use theworld evaluate"):
        make("TheWorldChat", arm="other-item")
    with pytest.raises(UsageError, match="there is no arm"):
        make("TheWorldChat", arm="of")
    with pytest.raises(NotImplementedError, match="--force_simple"):
        make("TheWorldChat").loglikelihood([])
    with pytest.raises(NotImplementedError, match="one turn"):
        make("TheWorldSimple").generate_until_multi_round([])
    blind = [Request(("Hello?", {}, lambda document: [], 0, "toy", "test"))]
    with pytest.raises(UsageError, match="Ask such a task with arm=off"):
        make("TheWorldSimple").generate_until(blind)
    assert len(make("TheWorldSimple", arm="off").generate_until(blind)) == 1
    for block, message in (
        ({"type": "audio", "url": "a.wav"}, "has audio"),
        ({"type": "video", "url": "a.mp4", "start_time": 1.0}, "a part of a clip"),
    ):
        with pytest.raises(UsageError, match=message):
            plugin.from_chat([{"role": "user", "content": [block]}])
    [turn] = plugin.from_visuals("<image>What?", ["a.MP4", "b.png", [Image.new("RGB", (8, 8))] * 2])
    assert [block["type"] for block in turn["content"]] == ["video", "image", "video", "text"]


TASK = """
task: toy_pictures
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.to_visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_new_tokens: 5, until: ["STOP"], temperature: 0}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@pytest.mark.skipif(not REAL, reason="lmms-eval is not installed; nox -s lmms_eval has it")
@pytest.mark.filterwarnings("ignore")
def test_a_task_of_lmms_eval_runs_unchanged(tmp_path: Path, talking: Path, talker: Pair) -> None:
    evaluator = importlib.import_module("lmms_eval.evaluator")
    task_manager = importlib.import_module("lmms_eval.tasks").TaskManager
    rows = []
    for number in (0, 1):
        DOCUMENTS[number]["image"].save(tmp_path / f"{number}.png")
        answer = wanted(talker, number, length=5)
        rows.append(
            {"question": DOCUMENTS[number]["question"], "picture": f"{tmp_path}/{number}.png", "answer": answer}
        )
    rows[1]["answer"] = "something else"
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "toy.yaml").write_text(TASK.format(rows=tmp_path / "rows.json"))
    (tmp_path / "tasks" / "utils.py").write_text(
        "from PIL import Image\n\ndef to_visual(doc):\n    return [Image.open(doc['picture']).convert('RGB')]\n"
    )
    for force_simple in (False, True):
        found = evaluator.simple_evaluate(
            model="theworld",
            model_args=f"pretrained={talking},arm=on",
            tasks=["toy_pictures"],
            task_manager=task_manager(include_path=str(tmp_path / "tasks"), include_defaults=False),
            batch_size=2,
            device="cpu",
            force_simple=force_simple,
        )
        assert found["results"]["toy_pictures"]["exact_match,none"] == 0.5
