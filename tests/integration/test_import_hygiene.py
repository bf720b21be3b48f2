"""Importing a package leaves the process as it was, and loads nothing that was not asked for.

Third-party libraries do change a process when they are imported: torch and transformers add warnings filters, others
set environment variables. So a first process lists what a package loads from outside, a second one loads all that and
only then the package: what changes at that point is ours.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import contextlib, importlib, json, logging, os, sys, warnings

def state():
    torch = sys.modules.get("torch")
    return {
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "warnings filters": [str(entry) for entry in warnings.filters],
        "log handlers": [str(handler) for handler in logging.getLogger().handlers],
        "log level": logging.getLogger().level,
        "grad mode": torch and torch.is_grad_enabled(),
        "dtype": torch and str(torch.get_default_dtype()),
        "device": torch and str(torch.get_default_device()),
        "threads": torch and [torch.get_num_threads(), torch.get_num_interop_threads()],
        "seed": torch and torch.initial_seed(),
    }

package, outside = json.loads(sys.argv[1])
for name in outside:
    with contextlib.suppress(ImportError):  # some entries of sys.modules are no modules of their own
        importlib.import_module(name)
before = state()
importlib.import_module(package)
after = state()
print(json.dumps([[key for key in before if before[key] != after[key]], list(sys.modules)]))
"""
PACKAGES = ("theworld_tokens", "theworld_encoders", "theworld_fusion", "theworld_train")


def probe(package: str, outside: list[str], path: Path | None = None) -> tuple[list[str], list[str]]:
    """Import ``outside``, then ``package``, in a fresh process: what changed at ``package``, and all modules loaded."""
    command = [sys.executable, "-c", PROBE, json.dumps([package, outside])]
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    changed, loaded = json.loads(done.stdout.splitlines()[-1])
    return changed, loaded


@pytest.mark.parametrize("package", PACKAGES)
def test_import_leaves_the_process_as_it_was(package: str) -> None:
    _, loaded = probe(package, [])
    outside = [name for name in loaded if not name.startswith("theworld_")]
    changed, _ = probe(package, outside)
    assert changed == []


def test_the_probe_sees_a_package_that_changes_the_process(tmp_path: Path) -> None:
    lines = [
        "import logging, os, torch, warnings",
        "torch.set_grad_enabled(False)",
        "torch.set_num_threads(torch.get_num_threads() + 1)",
        "warnings.simplefilter('ignore')",
        "logging.basicConfig(level=logging.DEBUG)",
        "os.environ['TOKENIZERS_PARALLELISM'] = 'false'",
    ]
    (tmp_path / "rude.py").write_text("\n".join(lines))
    changed, _ = probe("rude", ["torch"], tmp_path)
    expected = {"environment", "warnings filters", "log handlers", "log level", "grad mode", "threads"}
    assert set(changed) == expected


def test_tokens_load_only_the_standard_library() -> None:
    _, loaded = probe("theworld_tokens", [])
    names = {name.partition(".")[0] for name in loaded}
    # A site-packages .pth file may load modules before the first line of any program; a bare start shows which.
    bare = {name.partition(".")[0] for name in probe("json", [])[1]}
    assert names - bare - set(sys.stdlib_module_names) == {"theworld_tokens"}


RUNNING = """
import atexit, gc, json, sys
from theworld_train.cli import main
try:
    main()
finally:
    atexit._run_exitfuncs()
    searches = sum(one["collections"] for one in gc.get_stats())
    print(json.dumps([list(sys.modules), gc.isenabled(), gc.get_freeze_count(), searches]), file=sys.stderr)
"""
LARGE = {"accelerate", "datasets", "diffusers", "matplotlib", "pandas", "pyarrow", "scipy", "torch", "transformers"}


def ran(*command: str) -> tuple[set[str], bool, int, int]:
    """Large libraries that ``theworld`` loads; at its end, whether garbage is sought, in how much not, how often."""
    run = [sys.executable, "-c", RUNNING, *command]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    loaded, *garbage = json.loads(done.stderr.splitlines()[-1])
    return LARGE & {name.partition(".")[0] for name in loaded}, *garbage


LAUNCH = ("launch", "smoke", "--processes-per-node", "1", "--out")


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("train", "--help"),
        ("train", "smoke", "--print"),
        ("ablate", "--list"),
        (*LAUNCH, "not-made", "--dry-run"),
    ],
    ids=" ".join,
)
def test_a_command_that_computes_nothing_loads_no_large_library(command: tuple[str, ...]) -> None:
    assert ran(*command)[0] == set()


def test_a_launch_leaves_them_to_its_processes(tmp_path: Path) -> None:
    assert ran(*LAUNCH, str(tmp_path / "run"), "--", "--print")[0] == set()


def test_what_a_command_loads_is_not_looked_through_for_garbage() -> None:
    loaded, collects, frozen, searches = ran("encoders")
    assert "torch" in loaded
    assert collects
    assert frozen > 50_000
    assert searches < 100  # by Python's own threshold it is hundreds


def test_a_process_of_a_run_draws_nothing_unless_it_is_the_main_one() -> None:
    loaded = probe("theworld_train.run", [])[1]
    assert "torch" in loaded
    assert "matplotlib" not in loaded


def test_encoders_load_no_encoder_library_before_one_is_asked_for() -> None:
    _, loaded = probe("theworld_encoders", [])
    assert {"diffusers", "transformers", "av"}.isdisjoint(name.partition(".")[0] for name in loaded)
