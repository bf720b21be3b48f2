"""Ablations: arms that differ in one thing, controls that withhold it, and verdicts that the figures justify."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from theworld_encoders import FeatureCache
from theworld_encoders.controls import OtherItem
from theworld_train.data.lazy import load_chat
from theworld_train.data.micro_world import open_micro_world
from theworld_train.errors import UsageError
from theworld_train.evaluate.ablate import run as ablation
from theworld_train.evaluate.ablate.arms import Arm, Bases, all_arms, identity_of
from theworld_train.evaluate.ablate.checks import Seen, check_asking, check_training, seen_by
from theworld_train.evaluate.ablate.features import cache_folder, fill_cache, is_cached, with_cache
from theworld_train.evaluate.ablate.findings import find, judge
from theworld_train.evaluate.ablate.plan import Plan
from theworld_train.evaluate.ablate.plan_file import dump_plan, load_plan, shipped_plans
from theworld_train.evaluate.ablate.run import arms_of, pairs_of, run_ablation
from theworld_train.evaluate.folder import read_records
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.statistics import Paired
from theworld_train.media import media_of_chat
from theworld_train.pair import make_pair
from theworld_train.recipe import MicroWorldSource
from theworld_train.recipe_file import load_recipe

SMALL = [
    "grid.world=[on, off, other-item, registers]",
    "grid.seed=[0]",
    "swaps=[zeros]",
    "set.optim={lr: 1.0e-3, warmup_steps: 1}",
    "set.batch={size: 4}",
    "set.save={every: 2}",
    "set.stages=[{name: all, steps: 4, parts: {world_projector: {}, language_model: {}}, data: {workers: 0, remember: "
    "99, sources: [{kind: micro-world, families: [direction/free, shape/free], groups: 2}]}}]",
    "base.set.stages=[{name: pictures, steps: 2, parts: {language_model: {}}, data: {workers: 0, sources: "
    "[{kind: micro-world, families: [shape/free], groups: 2}]}}]",
    "base.set.optim={warmup_steps: 1}",
    "tasks=[{kind: micro-world, families: [direction/free, shape/free], groups: 2}]",
    "sums={motion: [direction/free], single frame: [shape/free]}",
]


def small() -> Plan:
    return load_plan("micro-world", SMALL)


class Here:
    """In place of processes: work is done where it is submitted."""

    def __init__(self, processes: int) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, label: str, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(lambda *_: None, *arguments))
        return future


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A small ablation that nothing interrupted: its folder, and what was said."""
    out, said = tmp_path_factory.mktemp("straight"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "Jobs", Here)
        run_ablation(small(), out, say=said.append, command="theworld ablate <small>")
    return out, said


def records_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("records.jsonl"))}


def test_it_goes_on_after_a_kill_as_if_nothing_had_happened(
    straight: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(tmp_path / "here", processes=1)
    until(process, lambda: list(tmp_path.glob("here/o*/run/checkpoint-2")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "here" / "report.html").exists()
    out = (tmp_path / "here").rename(tmp_path / "there")
    [begun] = out.glob("o*/run/checkpoint-2/theworld_adapter.safetensors")
    before = begun.stat().st_mtime_ns
    monkeypatch.setattr(ablation, "Jobs", Here)
    run_ablation(small(), out, say=lambda _: None)
    assert begun.stat().st_mtime_ns == before  # the run went on from it, though the folder was moved
    assert records_of(out) == records_of(straight[0])
    assert len(records_of(out)) == 5  # four arms, and one of them with a swap


def start(out: Path, *, processes: int) -> subprocess.Popen[str]:
    """The command, in a process of its own."""
    arguments = [part for change in SMALL for part in ("--set", change)]
    command = [sys.executable, "-m", "theworld_train", "ablate", "micro-world", "--out", str(out), *arguments]
    return subprocess.Popen(
        [*command, "--processes", str(processes)], stderr=subprocess.PIPE, start_new_session=True, text=True
    )


def until(process: subprocess.Popen[str], reached: Callable[[], Any]) -> None:
    begun = time.monotonic()
    while not reached():
        assert process.poll() is None
        assert time.monotonic() - begun < 300
        time.sleep(0.05)


def test_what_is_done_is_not_done_again_wherever_it_lies(
    straight: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is done")

    monkeypatch.setattr(ablation, "Jobs", Here)
    monkeypatch.setattr("theworld_train.evaluate.ablate.training.run_recipe", never)
    monkeypatch.setattr("theworld_train.evaluate.ablate.work.make_pair", never)
    monkeypatch.setattr("theworld_train.evaluate.facts._commit", lambda folder: "of a change to the documents")
    moved = shutil.copytree(straight[0], tmp_path / "moved")
    run_ablation(small(), moved, say=lambda _: None)
    monkeypatch.chdir(tmp_path)
    run_ablation(small(), Path("moved"), say=lambda _: None)
    changed = load_plan(
        "micro-world", [*SMALL, "level=0.05", "margin=0.2", "sums={}", "name=other", "set.log={every: 7}"]
    )
    run_ablation(changed, moved, say=lambda _: None)
    assert records_of(moved) == records_of(straight[0])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="who works is read from /proc")
def test_a_process_that_is_killed_ends_the_command_at_once(tmp_path: Path) -> None:
    process = start(tmp_path / "out", processes=2)
    until(process, lambda: len(list(tmp_path.glob("out/o*-seed0*/run/log.jsonl"))) == 2)
    of_threads = [file.read_text().split() for file in Path(f"/proc/{process.pid}/task").glob("*/children")]
    workers = [int(child) for children in of_threads for child in children if is_worker(int(child))]
    assert len(workers) == 2
    killed = time.monotonic()
    os.kill(workers[1], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert time.monotonic() - killed < 30
    assert process.returncode == 2
    assert "a process was ended from outside" in said.splitlines()[-1]
    assert not (tmp_path / "out" / "report.html").exists()


def is_worker(process: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()


def test_two_commands_do_not_work_in_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEPER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"kept\n"
        with pytest.raises(UsageError, match=f"process {keeper.pid} works in"):
            run_ablation(small(), tmp_path, say=lambda _: None)
        keeper.kill()


KEEPER = """
import sys
from pathlib import Path
from theworld_train.folders import kept_alone
with kept_alone(Path(sys.argv[1])):
    print("kept", flush=True)
    sys.stdin.read()
"""


def test_a_plan_that_grows_keeps_what_it_has(tmp_path: Path) -> None:
    bases = Bases(vlm=Path("/vlm"), world=Path("/world"), identity="0")
    few, many = (
        {(arm.world, arm.recipe.model.config["world_tokens_per_item"], arm.seed): arm for arm in all_arms(plan, bases)}
        for plan in (
            load_plan("micro-world", ["grid={world: [on], slots: [36], seed: [0]}", "swaps=[]"]),
            load_plan("micro-world", ["grid={world: [zeros, on], slots: [9, 36], seed: [1, 0]}", "swaps=[]"]),
        )
    )
    [(key, arm)] = few.items()
    assert (arm.name, many[key].name) == ("on", "on, slots 36")
    assert arm.folder == many[key].folder
    assert len({arm.folder for arm in many.values()}) == len(many) == 8


def test_a_base_of_one_s_own_is_known_by_what_it_holds(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    def identity(place: Path, **changes: str) -> str:
        recipe = load_recipe("smoke", [f"model.vlm={place / 'vlm'}", f"model.world={place / 'world'}"])
        model = recipe.model.model_copy(update=changes)
        return identity_of(recipe.model_copy(update={"model": model}), None)

    for name in ("one", "two"):
        for folder in folders:
            shutil.copytree(folder, tmp_path / name / folder.name)
    first = identity(tmp_path / "one")
    assert identity(tmp_path / "two") == first
    assert identity(tmp_path / "one", vlm="google/gemma-3-4b-it") != first
    config = tmp_path / "three" / "vlm" / "config.json"
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    config.write_text(config.read_text() + " ")
    assert identity(tmp_path / "three") != first


def test_the_report_needs_no_other_file(straight: tuple[Path, list[str]]) -> None:
    out, said = straight
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert 'src="http' not in page
    assert page.count("data:image/png;base64,") == 2 + 1 + 2  # forests, losses, a clip of each family
    for name in ("on", "off", "other-item", "registers"):
        assert f"| {name} |" in text
    assert "theworld ablate &lt;small&gt;" in page
    assert "theworld ablate <small>" in text
    sentences = json.loads((out / "findings.json").read_text())["tasks"][0]["comparisons"]
    assert len(sentences) == 2 * 3
    assert all(f"- {one['sentence']}" in text and f"  {one['sentence']}" in said for one in sentences)
    assert "points by which" not in text


def test_arms_have_seen_the_same_and_differ_in_the_world_alone(straight: tuple[Path, list[str]]) -> None:
    out, _ = straight
    runs = {path.parent.name.partition("-seed")[0]: path for path in out.glob("*seed0*/run")}
    recipe = arm_of("on", out).recipe
    assert len({tuple(seen_by(run, recipe).digests.items()) for run in runs.values()}) == 1
    asked = {
        name: read_records(
            next(one for one in run.parent.iterdir() if one.name.startswith("micro-world") and "zeros" not in one.name)
        )
        for name, run in runs.items()
    }
    assert {name: {one.world_tokens for one in records} for name, records in asked.items()} == {
        "on": {27}, "off": {0}, "other-item": {27}, "registers": {27}
    }  # fmt: skip
    trained = {name: json.loads((run / "parts.json").read_text()) for name, run in runs.items()}
    rows = {name: {row["part"]: row["trainable"] for row in parts} for name, parts in trained.items()}
    assert rows["off"]["language_model"] == rows["on"]["language_model"] > 0
    assert rows["registers"]["world_projector"] > rows["on"]["world_projector"] == rows["other-item"]["world_projector"]


def arm_of(world: str, out: Path, plan: Plan | None = None) -> Arm:
    return next(arm for arm in arms_of(plan or small(), out)[2] if arm.world == world)


def test_the_other_item_is_of_another_group(straight: tuple[Path, list[str]]) -> None:
    out, _ = straight
    arm = arm_of("other-item", out)
    model, _ = make_pair(arm.recipe, out)
    encoder: Any = model.model.world_encoder.freeze()
    assert isinstance(encoder, OtherItem)
    others = FeatureCache(cache_folder(arm, out), encoder)
    own = FeatureCache(cache_folder(arm, out), encoder.wrapped)
    rows = open_micro_world(
        MicroWorldSource(kind="micro-world", families=("direction/free", "shape/free"), groups=2), 9
    )
    examples = [rows.to_example(row) for row in rows.rows]
    frames = [[value for _, value in media_of_chat(load_chat(example.messages))] for example in examples]
    features = [own.features(one)[0] for one in frames]
    drawn = set()
    for example, one in zip(examples, frames, strict=True):
        given = others.get(others.key(one[0]))
        assert given is not None
        [group] = {other.group for other, its in zip(examples, features, strict=True) if torch.equal(its, given)}
        assert group != example.group
        drawn.add(group)
    assert len(drawn) > 1  # and no stand-in that is the same for all


def test_features_are_computed_once_for_all_seeds(tmp_path: Path) -> None:
    plan = load_plan("micro-world")
    arms = arms_of(plan, tmp_path)[2]
    assert len(arms) == 27
    assert len({arm.identity for arm in arms}) == 27
    cached = {arm.world for arm in arms if is_cached(arm)}
    assert cached == set(plan.grid.world) - {"off", "registers"}
    for arm in arms:
        caches = {stage.data.cache for stage in with_cache(arm, tmp_path).stages}
        assert caches == ({str(cache_folder(arm, tmp_path))} if is_cached(arm) else {None})


def test_missing_partners_are_an_error(straight: tuple[Path, list[str]], tmp_path: Path) -> None:
    arm = arm_of("other-item", straight[0])
    [stage] = arm.recipe.stages
    source = stage.data.sources[0].model_copy(update={"groups": 1, "families": ("shape/free",)})
    stage = stage.model_copy(update={"data": stage.data.model_copy(update={"sources": (source,)})})
    with pytest.raises(UsageError, match="other-item: there is 1 group"):
        fill_cache(lambda *_: None, replace(arm, recipe=arm.recipe.model_copy(update={"stages": (stage,)})), tmp_path)


def test_every_combination_of_the_grid_is_an_arm() -> None:
    bases = Bases(vlm=Path("/vlm"), world=Path("/world"), identity="0")
    axes = "slots: [9, 36], fusion: [sequence], placement: [first, beside_image], seed: [5]"
    plan = load_plan("micro-world", [f"grid={{world: [on, off, zeros], {axes}}}", "swaps=[]"])
    arms = {arm.name: arm for arm in all_arms(plan, bases)}
    assert list(arms)[:2] == ["on, slots 9, placement first", "off"]
    assert len(arms) == 4 + 4 + 1
    recipe = arms["zeros, slots 9, placement beside_image"].recipe
    assert recipe.model.encoder == "zeros:cosmos-predict2-vae"
    assert recipe.model.config == {
        "world_tokens_per_item": 9, "world_patch": 2, "world_fusion": "sequence", "world_placement": "beside_image"
    }  # fmt: skip
    assert (recipe.seed, recipe.model.vlm, recipe.model.world) == (5, "/vlm", "/world")
    assert ("on, slots 9, placement first", "off") in pairs_of(plan, list(arms.values()))
    assert ("on, slots 36, placement first", "zeros, slots 36, placement first") in pairs_of(plan, list(arms.values()))
    assert ("on, slots 9, placement first", "on, slots 36, placement first") in pairs_of(plan, list(arms.values()))
    assert len(pairs_of(plan, list(arms.values()))) == 8


def test_off_where_the_world_branch_alone_is_trained_is_the_base_itself() -> None:
    projector = "set.stages.{}.parts={{world_projector: {{}}}}"
    bases = Bases(vlm=Path("/vlm"), world=Path("/world"), identity="0")
    plan = load_plan("micro-world", [projector.format(0), projector.format(1)])
    off = next(arm for arm in all_arms(plan, bases) if arm.world == "off")
    assert not off.trains
    with pytest.raises(UsageError, match="stage direction trains the world branch alone"):
        all_arms(load_plan("micro-world", [projector.format(0)]), bases)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("grid.wrold=[on]", r"grid.wrold is no field. Did you mean grid.world\?"),
        ("levle=0.1", r"levle is no field. Did you mean level\?"),
        ("grid.world=[on, nosie]", r"grid.world.1 is \"nosie\".*noise"),
        ("grid.world=[off, zeros]", "reference is 'on', which grid.world does not have"),
        ("grid.seed=[1, 1]", "grid.seed has a value twice"),
        ("tasks=[]", "tasks is"),
        ("level=2", "level is 2"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(change: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_plan("micro-world", [change])


def test_a_process_that_was_ended_is_said_in_a_line() -> None:
    future: Future[Any] = Future()
    future.set_exception(BrokenProcessPool())
    with pytest.raises(UsageError, match="Give the same command again"):
        ablation._wait([future])


def test_what_no_task_asks_about_cannot_be_summed_up(tmp_path: Path) -> None:
    plan = load_plan("micro-world", [*SMALL, "sums={motion: [direction/fre]}"])
    with pytest.raises(UsageError, match=r"sums\.motion has 'direction/fre'.*They ask: direction/free, shape/free"):
        run_ablation(plan, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", list(shipped_plans()))
def test_shipped_plans_are_whole(name: str, tmp_path: Path) -> None:
    plan = load_plan(name)
    (tmp_path / "again.yaml").write_text(dump_plan(plan))
    assert load_plan(str(tmp_path / "again.yaml")) == plan
    assert arms_of(plan, tmp_path)[2]


def test_the_command_prints_a_plan_and_runs_nothing(theworld: Callable[..., Any], tmp_path: Path) -> None:
    result = theworld("ablate", "micro-world", "--print", "--set", "level=0.02", "--out", tmp_path)
    assert result.code == 0
    assert "level: 0.02" in result.out
    assert not list(tmp_path.iterdir())
    assert "micro-world" in theworld("ablate").out
    assert "Did you mean micro-world?" in theworld("ablate", "micro-wrold").err
    wrong = theworld("ablate", "micro-world", "--print", "--set", "set.optim.lrr=1")
    assert (wrong.code, "optim.lrr is no field. Did you mean optim.lr?" in wrong.err) == (2, True)


def test_runs_that_saw_other_examples_are_not_compared(tmp_path: Path) -> None:
    on, off = arm_of("on", tmp_path), arm_of("off", tmp_path)
    one = Seen(steps=4, digests={2: "z", 4: "a"}, examples=16, tokens=9, cache_misses=0)
    check_training({on: one, off: replace(one, tokens=5)})
    with pytest.raises(UsageError, match="not trained on the same examples"):
        check_training({on: one, off: replace(one, digests={4: "b"})})
    check_training({on: one, off: replace(one, digests={4: "a"})})
    with pytest.raises(UsageError, match="other keys until step 2"):
        check_training({on: one, off: replace(one, digests={2: "y", 4: "a"})})
    with pytest.raises(UsageError, match="3 features were missing"):
        check_training({replace(on, recipe=with_cache(on, tmp_path)): replace(one, cache_misses=3)})


def record(key: str, score: float | None, **changes: Any) -> Record:
    values = {
        "key": key, "family": "f", "group": f"g{key[:-1]}", "prompt": "<start_of_world><w>*9<end_of_world>Which?",
        "wanted": "a", "answer": "a", "score": score, "chance": 0.5, "world_tokens": 9,
    }  # fmt: skip
    return Record(**{**values, **changes})


def test_arms_that_were_asked_otherwise_are_not_compared(tmp_path: Path) -> None:
    on, off, other = (arm_of(world, tmp_path) for world in ("on", "off", "other-item"))
    asked = [record(f"{place:02}x", 1.0) for place in range(3)]
    without = [replace(one, prompt="Which?", world_tokens=0) for one in asked]
    check_asking({on: asked, off: without, other: asked})
    with pytest.raises(UsageError, match="asked different questions"):
        check_asking({on: asked, off: [replace(one, prompt="Why?") for one in without]})
    with pytest.raises(UsageError, match="different numbers of world tokens"):
        check_asking({on: asked, other: [replace(one, world_tokens=8) for one in asked]})


def answers(arms: list[Arm], scores: Callable[[Arm, int], float]) -> dict[Arm, list[Record]]:
    """160 questions in pairs that belong together."""
    return {arm: [record(f"{n // 2:03}{n % 2}", scores(arm, n)) for n in range(160)] for arm in arms}


def test_verdicts_are_what_the_scores_say(tmp_path: Path) -> None:
    plan = load_plan("micro-world", [*SMALL, "grid.seed=[0, 1, 2]", "sums={}"])
    arms = arms_of(plan, tmp_path)[2]
    shares = {"on": 50, "off": 20, "other-item": 80, "registers": 50}  # of a hundred

    def scores(arm: Arm, n: int) -> float:
        return float((n * 37 + 11 * arm.seed) % 100 < shares[arm.world])

    found = find(plan, "t", answers(arms, scores), pairs_of(plan, arms))
    assert {one.other: one.verdict for one in found.comparisons} == {
        "off": "better", "other-item": "worse", "registers": "same"
    }  # fmt: skip
    by_name = {one.other: one for one in found.comparisons}
    assert by_name["registers"].found.p == 1.0
    assert by_name["off"].sentence.startswith("all: on is better than off: +3")
    assert by_name["other-item"].sentence.startswith("all: on is worse than other-item: -2")
    assert by_name["off"].found.groups == 80  # a pair in three seeds is one group
    assert [row.scores["off"].total for row in found.rows] == [480]


def test_a_difference_that_seeds_make_is_none(tmp_path: Path) -> None:
    plan = load_plan("micro-world", [*SMALL, "grid.seed=[0, 1, 2]", "grid.world=[on, off]", "swaps=[]", "sums={}"])
    arms = arms_of(plan, tmp_path)[2]
    lucky = {("on", 0): 90, ("on", 1): 50, ("on", 2): 50}

    def scores(arm: Arm, n: int) -> float:
        return float((n * 37) % 100 < lucky.get((arm.world, arm.seed), 50))

    [one] = find(plan, "t", answers(arms, scores), pairs_of(plan, arms)).comparisons
    assert one.p < plan.level
    assert one.verdict == "open"
    assert "differ as much by their seed alone" in one.sentence
    first = [arm for arm in arms if arm.seed == 0]
    [one] = find(plan, "t", answers(first, scores), pairs_of(plan, first)).comparisons
    assert (one.verdict, "nobody can tell the arm from its seed" in one.sentence) == ("open", True)


def test_errors_are_left_out_of_all_arms(tmp_path: Path) -> None:
    plan = load_plan("micro-world", [*SMALL, "grid.world=[on, off]", "swaps=[]", "sums={}"])
    arms = arms_of(plan, tmp_path)[2]
    asked = answers(arms, lambda arm, n: float(arm.world == "on"))
    asked[arms[0]][3] = replace(asked[arms[0]][3], score=None, error="broken")
    found = find(plan, "t", asked, pairs_of(plan, arms))
    assert found.unusable == 1
    assert {score.total for score in found.rows[0].scores.values()} == {159}
    asked[arms[0]] = [replace(one, score=None, error="broken") for one in asked[arms[0]]]
    with pytest.raises(UsageError, match=r"f: each question has an error in some run.*The first: broken"):
        find(plan, "t", asked, pairs_of(plan, arms))


def test_the_same_takes_questions_enough() -> None:
    few = Paired(difference=0.0, low=-0.3, high=0.3, p=1.0, groups=10)
    assert judge(few, 1.0, (-1.0, 1.0), level=0.01, margin=0.05) == "open"
    assert judge(replace(few, low=-0.01, high=0.02), 1.0, (-1.0, 1.0), level=0.01, margin=0.05) == "same"
