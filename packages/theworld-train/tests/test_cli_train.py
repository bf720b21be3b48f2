"""``theworld train``: prints what it would do, lists what there is, and hands a checked recipe to the run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from theworld_train.recipe_file import dump_recipe, load_recipe, shipped

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the run was asked to do, by the name under which it is imported."""
    calls: list[Any] = []
    stub: Any = ModuleType("theworld_train.run")

    def run_recipe(recipe: Any, out: Path, *, resume: bool) -> Any:
        calls.append((recipe, out, resume))
        return SimpleNamespace(step=2, steps=2, checkpoint=out / "checkpoint-2")

    stub.run_recipe = run_recipe
    monkeypatch.setitem(sys.modules, "theworld_train.run", stub)
    return calls


@pytest.mark.parametrize("name", shipped())
def test_print_gives_a_recipe_that_loads_again(theworld: Run, ran: list[Any], name: str, tmp_path: Path) -> None:
    code, out, err = theworld("train", name, "--print", "--set", "seed=7")
    assert (code, err, ran) == (0, "", [])
    (tmp_path / "mine.yaml").write_text(out, encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.yaml")) == load_recipe(name, ["seed=7"])
    assert theworld("train", str(tmp_path / "mine.yaml"), "--print") == (0, out, "")


def test_print_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['theworld', 'train', 'smoke', '--print']\n"
        "from theworld_train.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", dump_recipe(load_recipe("smoke")))


@pytest.mark.parametrize("arguments", [(), ("--list",), ("smoke", "--list")])
def test_the_shipped_recipes_are_listed_with_what_they_are_for(
    theworld: Run, ran: list[Any], arguments: tuple[str, ...]
) -> None:
    code, out, _ = theworld("train", *arguments)
    assert (code, ran) == (0, [])
    for name, purpose in shipped().items():
        assert any(line.startswith(name) and line.endswith(purpose) for line in out.splitlines())


def test_a_run_gets_the_recipe_its_folder_and_whether_to_go_on(theworld: Run, ran: list[Any], tmp_path: Path) -> None:
    assert theworld("train", "smoke", "--set", "optim.lr=2e-5", "--set", "seed=3")[0] == 0
    assert theworld("train", "smoke", "--out", str(tmp_path), "--resume")[0] == 0
    assert ran == [
        (load_recipe("smoke", ["optim.lr=2e-5", "seed=3"]), Path("runs/smoke"), False),
        (load_recipe("smoke"), tmp_path, True),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smok",), "there is no recipe called 'smok'."),
        (("--print",), "there is no recipe to train. Give one: align-projector, "),
        (("--set", "seed=1"), "there is no recipe to train."),
        (("smoke", "--set", "optim.lrr=1"), "optim.lrr is no field. Did you mean optim.lr?"),
        (("smoke", "--set", "seed"), "--set seed has no value."),
        (("smoke", "--set", "model.config.world_pach=2"), "model.config.world_pach: TheWorldConfig has no field"),
    ],
)
def test_mistakes_are_one_line_and_nothing_runs(
    theworld: Run, ran: list[Any], arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = theworld("train", *arguments)
    assert (code, out, ran) == (2, "", [])
    assert err.startswith(f"theworld: {message}")
    assert err.count("\n") == 1


def test_help_shows_how(theworld: Run) -> None:
    code, out, _ = theworld("train", "--help")
    assert code == 0
    for option in ("--set", "--out", "--resume", "--print", "--list", "Example: theworld train smoke"):
        assert option in out
