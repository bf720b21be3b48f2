"""What the release sessions decide: next versions, true ranges, who meets whom, and what is refused."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from releasing import checks, compat, floors, history, records, versions
from releasing.tree import PACKAGES, Package, edges, packages

ROOT = Path(__file__).parents[2]
V = Version


class Clone:
    """A repository with the four packages at their smallest: metadata, changelog, one source file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch=main")
        for key, value in (("user.name", "Test"), ("user.email", "test@example.invalid")):
            self.git("config", key, value)
        needs = {"fusion": ["tokens", "encoders"], "train": ["tokens", "encoders", "fusion"]}
        for name in PACKAGES:
            self.write(name, "CHANGELOG.md", "# Changelog\n")
            self.write(name, f"src/theworld_{name}/__init__.py", "")
            self.write(name, "changelog.d/+first.feature.md", "The first version.")
            self.set(name, "0.1.0.dev0", dict.fromkeys(needs.get(name, []), ">=0.1.0.dev0,<0.2"))
        self.commit("Begin")

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True).stdout

    def package(self, name: str) -> Package:
        return packages(self.root)[name]

    def write(self, name: str, file: str, text: str) -> Path:
        path = self.root / f"packages/theworld-{name}/{file}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def set(self, name: str, version: str, needs: dict[str, str]) -> None:
        wishes = json.dumps([f"theworld-{one}{wish}" for one, wish in needs.items()])
        text = f'[project]\nname = "theworld-{name}"\nversion = "{version}"\ndependencies = {wishes}\n'
        self.write(name, "pyproject.toml", text)

    def commit(self, subject: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", subject)

    def release(self, name: str, version: str, needs: dict[str, str] | None = None) -> None:
        needs = needs or {}
        self.set(name, version, needs)
        for path in self.package(name).fragments:
            path.unlink()
        self.write(name, "CHANGELOG.md", f"{self.package(name).changelog}\n## [{version}] - 2026-01-01\n")
        self.commit(f"Release theworld-{name} {version}")
        self.git("tag", f"theworld-{name}-v{version}")
        self.set(name, str(versions.development(V(version))), needs)
        self.commit(f"Begin theworld-{name}")

    def all_released(self) -> None:
        both = {"tokens": ">=0.1.0,<0.2", "encoders": ">=0.1.0,<0.2"}
        for name in ("tokens", "encoders"):
            self.release(name, "0.1.0")
        self.release("fusion", "0.1.0", both)
        self.release("train", "0.1.0", both | {"fusion": ">=0.1.0,<0.2"})


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    (tmp_path / "clone").mkdir()
    return Clone(tmp_path / "clone")


@pytest.mark.parametrize(
    ("last", "kinds", "wanted"),
    [
        (None, {"breaking"}, None), ("0.1.0", {"fix"}, "0.1.1"), ("0.1.3", {"feature", "fix"}, "0.1.4"),
        ("0.1.3", {"feature", "breaking"}, "0.2.0"), ("1.2.3", {"deprecation"}, "1.2.4"),
        ("1.2.3", {"feature"}, "1.3.0"), ("1.2.3", {"breaking"}, "2.0.0"),
    ],
)  # fmt: skip
def test_next_version(last: str | None, kinds: set[str], wanted: str | None) -> None:
    found = versions.next_version(None if last is None else V(last), kinds)
    assert found == (None if wanted is None else V(wanted))


@pytest.mark.parametrize(
    ("current", "last", "kinds", "says"),
    [
        ("0.1.1.dev0", "0.1.0", {"fix"}, None), ("0.2.0.dev0", "0.1.0", {"breaking"}, None),
        ("0.2.0.dev0", "0.1.0", {"fix"}, None), ("1.0.0.dev0", "0.3.0", {"fix"}, None),
        ("0.7.3.dev0", None, {"fix"}, None),
        ("0.1.1.dev0", "0.1.0", {"breaking"}, "Write 0.2.0.dev0"), ("0.1.2.dev0", "0.1.0", {"fix"}, "comes 0.1.1"),
        ("0.1.0.dev0", "0.1.0", {"fix"}, "Write 0.1.1.dev0"), ("0.1.1", "0.1.0", {"fix"}, "ends in .dev0"),
        ("0.1.1.dev3", "0.1.0", {"fix"}, "ends in .dev0"), ("0.3.0.dev0", "0.1.0", {"breaking"}, "comes 0.2.0"),
    ],
)  # fmt: skip
def test_the_version_in_the_tree(current: str, last: str | None, kinds: set[str], says: str | None) -> None:
    fault = versions.version_fault(V(current), None if last is None else V(last), kinds)
    assert (fault is None) if says is None else (says in str(fault))


@pytest.mark.parametrize(
    ("wish", "head", "released", "says"),
    [
        (">=0.1.0,<0.2", "0.1.1.dev0", ["0.1.0"], []),
        (">=0.1.1.dev0,<0.2", "0.1.1.dev0", ["0.1.0"], []),
        (">=0.1.0,<0.3", "0.1.1.dev0", ["0.1.0"], ["takes 0.2.0, which may break it"]),
        (">=0.1.0", "0.1.1.dev0", ["0.1.0"], ["takes 0.2.0"]),
        ("<0.2", "0.1.1.dev0", ["0.1.0"], ["has no floor"]),
        (">=0.1.0,<0.2", "0.2.0.dev0", ["0.1.0"], ["refuses 0.2.0.dev0"]),
        (">=0.1.0,<0.3", "0.2.0.dev0", ["0.1.0"], []),
        (">=0.1.5,<0.2", "0.1.6.dev0", ["0.1.0"], ["begins at 0.1.5, which was never released"]),
        (">=1.0,<2", "1.4.0.dev0", ["1.0"], []),
        (">=1.0,<3", "1.4.0.dev0", ["1.0"], ["takes 2.0.0"]),
    ],
)
def test_ranges(wish: str, head: str, released: list[str], says: list[str]) -> None:
    faults = versions.range_faults(Requirement(f"theworld-tokens{wish}"), V(head), [V(one) for one in released])
    assert len(faults) == len(says)
    assert all(part in fault for part, fault in zip(says, faults, strict=True))


def test_ranges_of_this_repository_are_true() -> None:
    assert checks.range_check(ROOT) == []
    assert ("encoders", "fusion") in edges(ROOT)


def test_nothing_is_released_only_while_no_changelog_says_so(clone: Clone, tmp_path: Path) -> None:
    assert history.last_release(clone.package("tokens")) is None
    for edge in edges(clone.root):
        for side in compat.SIDES:
            assert compat.meeting(clone.root, *edge, side, tmp_path).unreleased
    clone.all_released()
    shallow = tmp_path / "shallow"
    clone.git("clone", "--quiet", "--depth=1", "--no-tags", f"file://{clone.root}", str(shallow))
    with pytest.raises(ValueError, match=r"has 0\.1\.0, but this clone has neither its tag nor its commit"):
        history.last_release(packages(shallow)["tokens"])


def test_releases_are_found_by_tags_and_without_them_by_subjects(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone.all_released()
    clone.release("encoders", "0.1.1")
    clone.commit("Release theworld-encoders 9.9.9 some day")  # says more, so it is none
    by_tag = history.releases(clone.package("encoders"))
    assert [one.version for one in by_tag] == [V("0.1.1"), V("0.1.0")]
    for tag in clone.git("tag").split():
        clone.git("tag", "--delete", tag)
    assert history.releases(clone.package("encoders")) == by_tag
    monkeypatch.chdir(tmp_path)
    first = history.package_at(clone.root, by_tag[1], Path("scratch"))
    monkeypatch.chdir(clone.root)  # as the session that runs the tests of a release does
    assert first.version == V("0.1.0")


def test_who_meets_after_a_breaking_release_of_one_package(clone: Clone, tmp_path: Path) -> None:
    clone.all_released()
    clone.release("encoders", "0.2.0")
    wide = {"tokens": ">=0.1.0,<0.2", "encoders": ">=0.2.0,<0.3"}
    clone.set("fusion", "0.1.1.dev0", wide)

    def versions_of(provider: str, consumer: str, side: str) -> dict[str, str] | str:
        met = compat.meeting(clone.root, provider, consumer, side, tmp_path)
        return met.refused if met.consumer is None else {one.name: str(one.version) for one in met.together}

    assert versions_of("encoders", "fusion", "head-provider") == (
        "theworld-fusion 0.1.0 takes theworld-encoders<0.2,>=0.1.0, not 0.2.1.dev0"
    )
    assert compat.meeting(clone.root, "encoders", "fusion", "head-provider", tmp_path).lawful
    assert versions_of("encoders", "fusion", "floor") == {
        "tokens": "0.1.1.dev0", "encoders": "0.2.0", "fusion": "0.1.1.dev0",
    }  # fmt: skip
    assert versions_of("tokens", "fusion", "head-provider") == {
        "tokens": "0.1.1.dev0", "encoders": "0.1.0", "fusion": "0.1.0",
    }  # fmt: skip
    assert versions_of("fusion", "train", "head-consumer") == {  # train in the tree has not followed yet
        "tokens": "0.1.1.dev0", "encoders": "0.1.0", "fusion": "0.1.0", "train": "0.1.1.dev0",
    }  # fmt: skip


def test_a_release_tests_each_meeting_once(clone: Clone, tmp_path: Path) -> None:
    clone.all_released()

    def sessions(provider: str) -> list[str]:
        return compat.sessions(clone.root, provider, "fusion", tmp_path)

    assert sessions("tokens") == ["tests(fusion)", "tests(fusion)"]  # HEAD's code on both sides, versions aside
    clone.write("tokens", "src/theworld_tokens/__init__.py", "A = 1\n")
    clone.commit("Change tokens")
    assert sessions("tokens") == ["compat(tokens-fusion, head-consumer)", "tests(fusion)"]
    clone.release("tokens", "0.1.1")
    assert sessions("tokens") == ["tests(fusion)", "tests(fusion)", "compat(tokens-fusion, floor)"]
    clone.write("fusion", "tests/test_more.py", "")
    ours = ["tests(fusion)", "compat(tokens-fusion, head-provider)", "compat(tokens-fusion, floor)"]
    assert sessions("tokens") == ours  # the released consumer is tested by its own tests
    clone.set("fusion", "0.1.1.dev0", {"tokens": ">=0.1.1,<0.2", "encoders": ">=0.1.0,<0.2"})
    assert sessions("tokens") == ours[:2]
    gates = checks.gates(clone.root, "fusion", [], tmp_path)
    assert gates.count("tests(fusion)") == 1
    assert set(ours[:2]) < set(gates)


def test_a_green_session_counts_for_the_same_files_today(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = ["lint", "compat(tokens-fusion, floor)", "tests(fusion)"]

    def green() -> list[str]:
        return list(records.green(tmp_path, clone.root, [*sessions, "docs"]))

    assert green() == []
    for session in sessions:
        records.write(tmp_path, str(records.state(clone.root, session)), session)
    assert green() == sessions
    clone.commit("Say nothing")
    assert green() == sessions
    clone.write("tokens", "note.txt", "left lying about")
    assert {records.state(clone.root, session) for session in sessions} == {None}
    assert green() == []
    clone.commit("Add a note")
    assert green() == []
    clone.git("reset", "--hard", "HEAD~")
    assert green() == sessions
    with monkeypatch.context() as patch:
        patch.setattr(records.platform, "python_version", lambda: "3.99.0")
        assert green() == []
    monkeypatch.setattr(records, "LASTS", records.timedelta(0))
    assert green() == []
    assert records.state(tmp_path, "lint") is None  # an unpacked archive has no history


def test_tests_stay_green_over_what_a_release_writes(clone: Clone) -> None:
    sessions = ("lint", "ranges", "build(encoders)", "typecheck", "tests(encoders)", "tests(fusion)", "minimums(train)")

    def changed() -> set[str]:
        clone.commit("Change something")
        before = dict(known)
        known.update({session: str(records.state(clone.root, session)) for session in sessions})
        return {session for session in sessions if known[session] != before.get(session)}

    known = dict[str, str]()
    clone.set("tokens", "0.1.0.dev0", {})
    assert changed() == set(sessions)
    of_versions = {"lint", "ranges", "build(encoders)"}
    clone.release("tokens", "0.1.0")
    assert changed() == of_versions
    clone.set("fusion", "0.1.0.dev0", {"tokens": ">=0.1.0,<0.2", "encoders[cosmos]": ">=0.1.0.dev0,<0.2"})
    assert changed() == {*of_versions, "typecheck", "tests(fusion)", "minimums(train)"}  # it asks for an extra now
    clone.set("fusion", "0.1.1.dev0", {"tokens": ">=0.1.0,<0.2", "encoders[cosmos]": ">=0.1.0,<0.3"})
    assert changed() == of_versions
    clone.write("fusion", "src/theworld_fusion/new.py", "x = 1")
    assert changed() == {*of_versions, "typecheck", "tests(fusion)", "minimums(train)"}
    clone.write("fusion", "changelog.d/+new.feature.md", "A number.")
    assert changed() == of_versions
    (clone.root / "constraints.txt").write_text("torch==2.13.0")
    assert changed() == set(sessions)
    path = clone.package("encoders").folder / "pyproject.toml"
    path.write_text(path.read_text() + '\n[project.optional-dependencies]\nvideo = ["av>=14"]\n')
    assert changed() == set(sessions)


def test_a_refusal_without_a_break_is_a_fault(clone: Clone, tmp_path: Path) -> None:
    clone.all_released()
    clone.release("fusion", "0.1.1", {"tokens": ">=0.1.0,<0.1.1", "encoders": ">=0.1.0,<0.2"})
    met = compat.meeting(clone.root, "tokens", "fusion", "head-provider", tmp_path)
    assert met.refused
    assert met.lawful is False


def test_a_released_range_that_is_too_wide_is_not_refused_so_its_tests_decide(clone: Clone, tmp_path: Path) -> None:
    clone.release("tokens", "0.1.0")
    clone.release("encoders", "0.1.0")
    clone.release("fusion", "0.1.0", {"tokens": ">=0.1.0,<1", "encoders": ">=0.1.0,<0.2"})
    clone.set("tokens", "0.2.0.dev0", {})
    met = compat.meeting(clone.root, "tokens", "fusion", "head-provider", tmp_path)
    assert met.consumer is not None
    assert met.consumer.version == V("0.1.0")
    assert str(met.together[0].version) == "0.2.0.dev0"


def test_changes_need_fragments(clone: Clone, tmp_path: Path) -> None:
    clone.write("tokens", "tests/golden/table.json", "{}")
    clone.release("tokens", "0.1.0")
    tokens = clone.package("tokens")
    assert checks.changelog_check(tokens, tmp_path) == []
    clone.write("tokens", "README.md", "New words.")
    assert checks.changelog_check(tokens, tmp_path) == []
    clone.write("tokens", "src/theworld_tokens/__init__.py", "A = 1\n")
    [fault] = checks.changelog_check(tokens, tmp_path)
    assert "src/theworld_tokens/__init__.py changed since 0.1.0 and there is no fragment" in fault
    clone.write("tokens", "changelog.d/12.fix.md", "It was mended.")
    assert checks.changelog_check(tokens, tmp_path) == []
    clone.write("tokens", "tests/golden/table.json", '{"a": 1}')
    [fault] = checks.changelog_check(tokens, tmp_path)
    assert "published checkpoints depend on it" in fault
    clone.write("tokens", "changelog.d/13.breaking.md", "It broke.")
    [fault] = checks.changelog_check(tokens, tmp_path)
    assert "Write 0.2.0.dev0" in fault
    clone.write("tokens", "changelog.d/14.remark.md", "A type that there is not.")
    with pytest.raises(ValueError, match=r"14\.remark\.md is no fragment"):
        checks.changelog_check(tokens, tmp_path)


def test_a_release_is_refused(clone: Clone) -> None:
    assert checks.release_check(clone.package("tokens")) == []
    [first, second] = checks.release_check(clone.package("fusion"))
    assert "whose floor is not released. Release theworld-tokens first." in first
    assert "Release theworld-encoders first." in second
    clone.git("checkout", "--quiet", "-b", "topic")
    clone.write("tokens", "note.txt", "left lying about")
    faults = checks.release_check(clone.package("tokens"))
    assert ["the tree has changes" in faults[0], "the branch is topic" in faults[1]] == [True, True]
    clone.git("checkout", "--quiet", "main")
    clone.git("clean", "--quiet", "-fd")
    clone.release("tokens", "0.1.0")
    assert "no fragments" in checks.release_check(clone.package("tokens"))[0]
    clone.git("tag", "theworld-encoders-v0.1.0")
    assert "the tag theworld-encoders-v0.1.0 is taken" in checks.release_check(clone.package("encoders"))[0]
    assert "Write >=0.1.0." in checks.release_check(clone.package("fusion"))[0]


def test_a_real_clone_cannot_leave_gates_out(clone: Clone, tmp_path: Path) -> None:
    short = ["--gates", "lint"]
    assert checks.gates_fault(clone.root, short) == []
    assert checks.gates(clone.root, "fusion", short, tmp_path) == ["lint"]
    wanted = {"lint", "tests(fusion)", "compat(fusion-train, floor)"}
    assert wanted <= set(checks.gates(clone.root, "fusion", [], tmp_path))
    clone.git("remote", "add", "origin", "https://example.invalid/theworld.git")
    assert "leave it out" in checks.gates_fault(clone.root, short)[0].lower()
    assert "--force is no option" in checks.gates_fault(clone.root, ["--force"])[0]


def test_floors_take_the_place_of_pins_but_for_torch() -> None:
    train = packages(ROOT)["train"]
    lowest = floors.floors(train, ["lora"])
    assert "torch" not in lowest
    assert not any(name.startswith("theworld-") for name in lowest)
    assert lowest["diffusers"] >= V("0.42")  # of encoders' extra, which fusion asks for
    lines = floors.constraints(lowest, "torch==2.13.0\nnumpy==9.9\n# a remark\nsphinx==9.0\n").splitlines()
    assert {"torch==2.13.0", "sphinx==9.0", f"numpy=={lowest['numpy']}"} <= set(lines)
    assert "numpy==9.9" not in lines
