"""Releases cut for practice in a scratch clone, and mistakes that have to turn a session red: run as a script.

Everything is done by the sessions of ``noxfile.py`` themselves; what is left out is named by ``--gates``.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from releasing.history import git
from releasing.tree import PACKAGES, Package

GATES = ("--gates", "lint,changelog,api")
"""The gates of a drill; a release has many more, which take hours."""
REFUSED = "refused by range, by pip as well: theworld-fusion"


class Drill:
    """A clone and its sessions."""

    def __init__(self, source: Path, scratch: Path) -> None:
        self.root = scratch / "clone"
        shutil.rmtree(self.root, ignore_errors=True)
        git(source, "clone", "--quiet", str(source), str(self.root))
        git(self.root, "checkout", "--quiet", "-B", "main")
        for key, value in (("user.name", "Drill"), ("user.email", "drill@example.invalid")):
            git(self.root, "config", key, value)
        self.steps = 0

    def package(self, name: str) -> Package:
        return Package(name=name, root=self.root)

    def nox(self, session: str, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "nox", "-r", "-s", session, "--", *arguments]
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "NOXSESSION")}
        done = subprocess.run(
            command, cwd=self.root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.returncode, done.stdout

    def expect(self, session: str, *arguments: str, red: bool = False, says: str) -> None:
        """Run a session, which has to be red or green as told and to say something that matches."""
        code, output = self.nox(session, *arguments)
        self.steps += 1
        if bool(code) != red or not re.search(says, " ".join(output.split())):
            print(output)
            raise SystemExit(f"drill: {session} gave {code}; wanted {'red' if red else 'green'} and {says!r}.")
        print(f"drill {self.steps:2}: {'red  ' if red else 'green'} {session}: {says}", flush=True)

    def edit(self, path: Path, old: str, new: str) -> None:
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise SystemExit(f"drill: {path} has no {old!r}. Adapt the drill to it.")
        path.write_text(text.replace(old, new), encoding="utf-8")

    def ask(self, consumer: str, provider: str, wish: str) -> None:
        """Set one range."""
        path = self.package(consumer).folder / "pyproject.toml"
        text = path.read_text(encoding="utf-8")
        text, count = re.subn(rf'"(theworld-{provider}(?:\[\w+\])?)[>=<][^"]*"', rf'"\g<1>{wish}"', text)
        if not count:
            raise SystemExit(f"drill: {consumer} requires no theworld-{provider}.")
        path.write_text(text, encoding="utf-8")

    def commit(self, subject: str) -> None:
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "-m", subject)

    def undo(self) -> None:
        git(self.root, "reset", "--quiet", "--hard")
        git(self.root, "clean", "--quiet", "-fd")


def refusals_before_anything(drill: Drill) -> None:
    drill.expect("api(tokens)", says="nothing released yet of theworld-tokens")
    drill.expect("compat(tokens-fusion, head-provider)", says="nothing released yet of theworld-fusion")
    drill.expect("checkpoints", says="nothing released yet of theworld-fusion")
    drill.expect("release(fusion)", *GATES, red=True, says="whose floor is not released. Release theworld-tokens first")
    drill.expect("release(tokens)", "--force", red=True, says="--force is no option")
    note = drill.root / "note.txt"
    note.write_text("left lying about")
    drill.expect("release(tokens)", *GATES, red=True, says="the tree has changes")
    note.unlink()
    git(drill.root, "checkout", "--quiet", "-b", "topic")
    drill.expect("release(tokens)", *GATES, red=True, says="the branch is topic")
    git(drill.root, "checkout", "--quiet", "main")


def first_releases(drill: Drill) -> None:
    for name in PACKAGES:
        package = drill.package(name)
        if package.siblings:
            for sibling in package.siblings:
                drill.ask(name, sibling, ">=0.1.0,<0.2")
            drill.commit(f"Let theworld-{name} begin at released versions")
        start = git(drill.root, "rev-parse", "HEAD")
        says = rf"git push --atomic origin main theworld-{name}-v0\.1\.0"
        if name == "tokens":  # as the drill's first step was
            says = rf"api\(tokens\) was green on these files.*{says}"
        drill.expect(f"release({name})", *GATES, says=says)
        subjects = git(drill.root, "log", "--format=%s", f"{start}..HEAD").splitlines()
        assert subjects == [f"Begin theworld-{name} 0.1.1.dev0", f"Release theworld-{name} 0.1.0"], subjects
        assert str(package.version) == "0.1.1.dev0", package.version
        assert not package.fragments, package.fragments
        assert "## [0.1.0] - " in package.changelog, package.folder
        assert not git(drill.root, "status", "--porcelain"), "a release left changes behind"
    drill.expect("release(tokens)", *GATES, red=True, says="has no fragments, so there is nothing to release")
    drill.expect("api(tokens)", says="since 0.1.0: nothing is broken")


def breaks_of_tokens(drill: Drill) -> None:
    """A removed name without fragment, without version, without or with too wide ranges; a changed id."""
    package = drill.package("tokens")
    layout = package.folder / "src/theworld_tokens/layout.py"
    fragment = package.folder / "changelog.d/+drill.breaking.md"
    drill.edit(layout, "def world_span(num_tokens: int,", "def world_span(tokens: int, num_tokens: int,")
    drill.expect("api(tokens)", red=True, says="world_span.tokens.: Parameter was added as required")
    drill.expect("changelog(tokens)", red=True, says="there is no fragment")
    fragment.write_text("`theworld_tokens.world_span` took one number more.")
    drill.expect("api(tokens)", says="Parameter was added as required")
    drill.expect("changelog(tokens)", red=True, says=r"Write 0\.2\.0\.dev0")
    drill.edit(package.folder / "pyproject.toml", '"0.1.1.dev0"', '"0.2.0.dev0"')
    drill.expect("changelog(tokens)", says="successful")
    drill.expect("ranges", red=True, says=r"theworld-fusion: .* refuses 0\.2\.0\.dev0")
    for consumer in ("fusion", "train"):
        drill.ask(consumer, "tokens", ">=0.1.0,<1")
    drill.expect("ranges", red=True, says=r"takes 0\.3\.0, which may break it. Cap it")
    drill.expect("compat(tokens-fusion, head-provider)", says=rf"{REFUSED} 0\.1\.0")
    drill.undo()
    drill.edit(package.folder / "tests/golden/token_table.json", "262145", "262150")
    fragment.write_text("x")
    fragment.rename(fragment.with_name("+drill.fix.md"))
    drill.expect("changelog(tokens)", red=True, says="published checkpoints depend on it")
    drill.undo()


def encoders_alone(drill: Drill) -> None:
    """A minor release of encoders: who is held back by range, and who goes on."""
    package = drill.package("encoders")
    export = "from theworld_encoders.images import to_rgb as to_rgb\n"
    drill.edit(package.folder / "src/theworld_encoders/__init__.py", export, "")
    (package.folder / "changelog.d/+drill.breaking.md").write_text("`theworld_encoders.to_rgb` was taken away.\n")
    drill.edit(package.folder / "pyproject.toml", '"0.1.1.dev0"', '"0.2.0.dev0"')
    drill.expect("ranges", red=True, says=r"theworld-fusion: .* refuses 0\.2\.0\.dev0")
    for consumer in ("fusion", "train"):
        drill.ask(consumer, "encoders", ">=0.2.0.dev0,<0.3")
        note = drill.package(consumer).folder / "changelog.d/+drill.fix.md"
        note.write_text("The package took theworld-encoders 0.2.\n")
    drill.commit("Take a name away from encoders")
    drill.expect("compat(encoders-fusion, head-consumer)", says=rf"{REFUSED} 0\.1\.1")
    drill.expect("release(encoders)", *GATES, says=r"push --atomic origin main theworld-encoders-v0\.2\.0")
    drill.expect("release(fusion)", *GATES, red=True, says=r"floor is not released\. Write >=0\.2\.0")
    for consumer in ("fusion", "train"):
        drill.ask(consumer, "encoders", ">=0.2.0,<0.3")
    drill.commit("Begin at encoders 0.2.0")
    drill.expect("compat(encoders-fusion, head-provider)", says=rf"{REFUSED} 0\.1\.0 takes .*, not 0\.2\.1\.dev0")
    few = ("-k", "test_slots or test_grid or test_round_trip")
    both = r"theworld-encoders 0\.2\.0 \+ theworld-fusion 0\.1\.1\.dev0.* passed"
    gone = "cannot import name 'to_rgb'"
    drill.expect("compat(encoders-fusion, head-consumer)", *few, red=True, says=gone)  # a test of fusion leans on it
    inner = "from theworld_encoders import MediaError\nfrom theworld_encoders.images import to_rgb"
    test = drill.package("fusion").folder / "tests/test_pictures.py"
    drill.edit(test, "from theworld_encoders import MediaError, to_rgb", inner)
    drill.expect("compat(encoders-fusion, head-consumer)", *few, says=both)
    old = r"theworld-tokens 0\.1\.1\.dev0 \+ theworld-encoders 0\.1\.0 \+ theworld-fusion 0\.1\.0.* passed"
    drill.expect("compat(tokens-fusion, head-provider)", *few, says=old)
    drill.expect("checkpoints", says="adapter: the same ids and logits.*whole: the same ids and logits")


def without_tags(drill: Drill) -> None:
    """A clone without tags finds the same releases by their subjects."""
    for name in git(drill.root, "tag").split():
        git(drill.root, "tag", "--delete", name)
    drill.expect("api(encoders)", says=r"since 0\.2\.0: nothing is broken")


if __name__ == "__main__":
    drill = Drill(Path(sys.argv[1]), Path(sys.argv[2]))
    for part in (refusals_before_anything, first_releases, breaks_of_tokens, encoders_alone, without_tags):
        part(drill)
    print(f"drill: {drill.steps} sessions did as they should, in {drill.root}")
