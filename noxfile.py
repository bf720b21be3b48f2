# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.5.1"]
# ///
"""Every verb of this repository. Plain `nox` runs what CI runs; `nox -l` lists the others."""

import datetime
import functools
import hashlib
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import nox

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT / "tools"))

from releasing import checks, contents, cutting, floors, history, records, tree  # noqa: E402
from releasing import compat as meetings  # noqa: E402

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"

PLUGIN = Path("examples/theworld-patch-motion")
PACKAGES = tree.PACKAGES
CONSTRAINTS = ("-c", str(ROOT / "constraints/ci.txt"))
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # what runs here may not need the network
    "OMP_NUM_THREADS": "1",  # the models are toys: more threads take longer, and change the last bits of sums
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16",  # some virtual machines announce AMX, and bf16 then dies on it
}
PLACEMENTS = ("single", "split", "ddp2", "fsdp2", "fsdp2_offload")  # tests/gpu says what each runs on
MAX_LINES = 400
OWN = tree.packages(ROOT)
EXTRAS = {"encoders": ["cosmos", "prompt", "video", "vision"], "fusion": ["lora"], "train": ["lora"]}
TOOLS = {"PYTHONPATH": str(ROOT / "tools")}
LMMS_EVAL = "lmms-eval==0.7.3"
LMMS_EVAL_IMPORTS = ("evaluate", "loguru", "numexpr", "python-dotenv", "pytz", "sacrebleu", "scikit-learn")

each_package = nox.parametrize("package", [nox.param(package, id=package) for package in PACKAGES])


def recorded(session_function: Callable[..., None]) -> Callable[..., None]:
    """Write down that a session was green on the committed files, for `release`: all of it, in a new environment."""

    @functools.wraps(session_function)
    def run(session: nox.Session, **parameters: object) -> None:
        environment, before = Path(session.env_dir), records.state(ROOT, session.name)
        used = environment / "used"  # nox -r leaves it where it is, and -R tests older wheels
        whole = environment.is_dir() and not used.exists() and not session.posargs
        if environment.is_dir():
            used.touch()
        session_function(session, **parameters)
        if whole and before and records.state(ROOT, session.name) == before:
            records.write(session.cache_dir / "green", before, session.name)

    return run


def folder(package: str) -> Path:
    return Path("packages") / f"theworld-{package}"


def metadata(package: str) -> dict:
    return nox.project.load_toml(folder(package) / "pyproject.toml")


def with_siblings(package: str) -> list[str]:
    """The package and those of its siblings that it declares."""
    declared = " ".join(metadata(package)["project"]["dependencies"])
    return [sibling for sibling in PACKAGES if sibling == package or f"theworld-{sibling}" in declared]


def wheel(session: nox.Session, home: Path) -> str:
    """Path of the wheel of the package in ``home``, built once for each state of its files."""
    home = ROOT / home
    files = [home / "pyproject.toml", home / "README.md", home / "LICENSE"]
    files += [*sorted(home.glob("*.py")), *sorted(home.glob("src/*/**/*"))]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path}\0".encode() + path.read_bytes())
    built = session.cache_dir / "wheels" / digest.hexdigest()[:16]
    if not list(built.glob("*.whl")):
        session.run("pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={built}", str(home))
    return str(next(built.glob("*.whl")).resolve())


def install(
    session: nox.Session, packages: list[str], *others: str, constraints: tuple[str, ...] = CONSTRAINTS
) -> None:
    """Install wheels of the tree by path, so that pip holds each to the ranges that the others declare."""
    install_wheels(session, [wheel(session, folder(package)) for package in packages], *others, constraints=constraints)


def install_wheels(
    session: nox.Session, wheels: list[str], *others: str, constraints: tuple[str, ...] = CONSTRAINTS
) -> None:
    session.install(*constraints, *wheels, *others)
    session.install("--force-reinstall", "--no-deps", *wheels)  # a reused environment keeps older ones otherwise
    session.run("pip", "check", silent=True)


def test_groups(packages: list[str]) -> list[str]:
    return sorted({need for package in packages for need in nox.project.dependency_groups(metadata(package), "test")})


def run_pytest(session: nox.Session, packages: list[str], where: str, *options: str) -> None:
    """Run tests, with shapes checked in every module that annotates them, of the checkout in the working directory."""
    shaped = [
        ".".join(path.relative_to(folder(package) / "src").with_suffix("").parts)
        for package in packages
        for path in sorted(folder(package).glob("src/**/*.py"))
        if "from jaxtyping import" in path.read_text()
    ]
    hook = [f"--jaxtyping-packages={','.join(shaped)},shapecheck.check"] if shaped else []
    workers = ["-n", "auto", "--maxprocesses=8", "--dist=worksteal"]  # a test uses one core
    command = ["pytest", "-c", "pyproject.toml", *hook, *workers, "--durations=10", *options, where]
    session.run(*command, *session.posargs, env=ENVIRONMENT)


@nox.session
@recorded
def lint(session: nox.Session) -> None:
    """Style, spelling, file length, and workflows that leak nothing."""
    session.install(*CONSTRAINTS, "ruff", "codespell", "zizmor")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("zizmor", "--offline", "--quiet", ".github")
    if shutil.which("actionlint"):  # a Go program, of which there is no wheel: GitHub's job brings it
        session.run("actionlint", external=True)
    folders = ["docs", "examples", "packages", "tests", "tools"]
    session.run("codespell", "README.md", "CONTRIBUTING.md", "noxfile.py", *folders)
    sources = [Path("noxfile.py"), *Path("benchmarks").rglob("*.py"), *Path("packages").glob("*/src/**/*.py")]
    sources += [*Path("tools").rglob("*.py"), *PLUGIN.glob("*.py")]
    lengths = {path: len(path.read_text().splitlines()) for path in sources}
    too_long = [f"{path} has {lines} lines" for path, lines in lengths.items() if lines > MAX_LINES]
    if too_long:
        session.error(f"{'; '.join(too_long)}. Cut what is over {MAX_LINES} into modules named by the noun they hold.")


@nox.session
@recorded
def typecheck(session: nox.Session) -> None:
    """Pyright over the sources of all four packages."""
    install(session, list(PACKAGES), "pyright", "peft")  # peft: of an extra, and imported where asked for
    session.run("pyright", *session.posargs)


@nox.session
@each_package
@recorded
def tests(session: nox.Session, package: str) -> None:
    """One package's tests on its built wheel, with nothing but what it declares."""
    packages = with_siblings(package)
    install(session, packages, *test_groups([package]))
    run_pytest(session, packages, f"{folder(package)}/tests")


@nox.session
@recorded
def integration(session: nox.Session) -> None:
    """What spans packages, on all four wheels, with a third party's encoder beside them."""
    plugin = wheel(session, PLUGIN)
    install(session, list(PACKAGES), plugin, *test_groups(list(PACKAGES)))
    session.install("--force-reinstall", "--no-deps", plugin)
    session.run(
        "python", "-c", f"import {PLUGIN.name.replace('-', '_')}"
    )  # its tests are skipped where it is not there
    run_pytest(session, list(PACKAGES), "tests/integration")


@nox.session
@each_package
@recorded
def build(session: nox.Session, package: str) -> None:
    """Build one package's sdist, and its wheel from that, into dist/; inspect both; run its README in a bare venv."""
    session.install(*CONSTRAINTS, "build", "hatchling", "twine", "check-wheel-contents")
    one = OWN[package]
    for old in Path("dist").glob(f"{one.module}-*"):
        old.unlink()
    session.run("python", "-m", "build", "--no-isolation", "--outdir=dist", str(one.folder), silent=True)
    stem = f"dist/{one.module}-{one.version}"
    sdist, built = Path(f"{stem}.tar.gz"), Path(f"{stem}-py3-none-any.whl")
    session.run("twine", "check", "--strict", str(sdist), str(built))
    session.run("check-wheel-contents", f"--toplevel={one.module}", str(built))
    with zipfile.ZipFile(built) as archive:
        stop_at(session, contents.wheel_faults(one, archive.namelist()))
    with tarfile.open(sdist) as archive:
        stop_at(session, contents.sdist_faults(one, archive.getnames()))
    if "--no-example" not in session.posargs:
        in_bare_environment(session, package, built)


def in_bare_environment(session: nox.Session, package: str, built: Path) -> None:
    """Install as the README says, siblings coming from a folder; import it isolated; run the README's example."""
    one, home = OWN[package], Path(session.create_tmp()).resolve() / "bare"
    siblings = [Path(wheel(session, folder(name))) for name in with_siblings(package) if name != package]
    exactly = home.parent / "siblings.txt"  # otherwise pip prefers a published release to the tree's .dev0
    exactly.write_text("".join(f"theworld-{name}=={OWN[name].version}\n" for name in PACKAGES))
    session.run("python", "-m", "venv", "--clear", str(home), silent=True)
    python = str(home / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    links = [f"--find-links={place}" for place in {built.parent.resolve(), *(path.parent for path in siblings)}]
    pip = [python, "-m", "pip"]
    wanted = [*CONSTRAINTS, "-c", str(exactly), *links, contents.install_name(one)]
    session.run(*pip, "install", "--quiet", *wanted, external=True)
    session.run(*pip, "check", silent=True, external=True)
    with session.chdir(home):
        importing = f"import {one.module}; assert {one.module}.__version__ == {str(one.version)!r}"
        session.run(python, "-I", "-W", "error", "-c", importing, external=True)
        session.run(python, "-I", "-c", contents.example(one), env=ENVIRONMENT, external=True)


def stop_at(session: nox.Session, faults: list[str]) -> None:
    if faults:
        session.error("\n".join(faults))


@nox.session
@recorded
def ranges(session: nox.Session) -> None:
    """Whether the ranges between the packages are true: by rule, and with all four wheels in one environment."""
    stop_at(session, checks.range_check(ROOT))
    install(session, list(PACKAGES))


@nox.session
@each_package
@recorded
def changelog(session: nox.Session, package: str) -> None:
    """Whether what changed since the last release has fragments that render, and the version that they ask for."""
    stop_at(session, checks.changelog_check(OWN[package], session.cache_dir / "releases"))
    session.install(*CONSTRAINTS, "towncrier")
    session.run("towncrier", "build", "--draft", "--version=next", "--dir", str(folder(package)), silent=True)


@nox.session
@each_package
@recorded
def api(session: nox.Session, package: str) -> None:
    """The public names and signatures against the last release: what breaks needs a breaking fragment."""
    last = history.last_release(OWN[package])
    if last is None:
        session.log(f"nothing released yet of theworld-{package}: no name is promised to anybody")
        return
    session.install(*CONSTRAINTS, "griffe", "packaging")
    before = history.checkout(ROOT, last, session.cache_dir / "releases")
    script = ["python", "-m", "releasing.public_api", package, str(before), str(ROOT)]
    found = str(session.run(*script, env=TOOLS, success_codes=[0, 3], silent=True)).strip()
    if found and "breaking" not in OWN[package].kinds:
        session.error(f"without a fragment of type breaking, since {last.version}:\n{found}")
    session.log(f"since {last.version}: {found or 'nothing is broken'}")


@nox.session(default=False)
@each_package
@recorded
def minimums(session: nox.Session, package: str) -> None:
    """One package's tests at the lowest versions that it declares; torch alone stays at constraints/ci.txt's."""
    pins = ROOT / "constraints/ci.txt"
    lowest = floors.write_constraints(OWN[package], EXTRAS.get(package, []), pins, Path(session.create_tmp()))
    packages = with_siblings(package)
    install(session, packages, *test_groups([package]), constraints=("-c", str(lowest)))
    run_pytest(session, packages, f"{folder(package)}/tests")


@nox.session(default=False)
@nox.parametrize("side", [nox.param(side, id=side) for side in meetings.SIDES])
@nox.parametrize("edge", [nox.param(edge, id="-".join(edge)) for edge in tree.edges(ROOT)])
@recorded
def compat(session: nox.Session, edge: tuple[str, str], side: str) -> None:
    """The consumer's tests where one of two packages is a released one: pass, fail, or refused by range."""
    met = meetings.meeting(ROOT, *edge, side, session.cache_dir / "releases")
    if met.unreleased:
        session.log(f"nothing released yet of {met.unreleased}: there is nothing to be compatible with")
        return
    if met.refused and not (met.lawful and met.together):
        session.error(met.refused)
    wheels = [wheel(session, one.folder) for one in met.together]
    if met.consumer is None:
        session.run("pip", "install", "--dry-run", "--quiet", *CONSTRAINTS, *wheels, success_codes=[1], silent=True)
        session.log(f"refused by range, by pip as well: {met.refused}")
        return
    session.log(" + ".join(f"{one.distribution} {one.version}" for one in met.together))
    name = met.consumer.name
    with session.chdir(met.consumer.root):  # its tests, settings and pins, of its release if it is a released one
        groups = test_groups([name])
        install_wheels(session, wheels, *groups, constraints=("-c", str(met.consumer.root / "constraints/ci.txt")))
        run_pytest(session, [one.name for one in met.together], f"{folder(name)}/tests")


@nox.session(default=False)
@recorded
def checkpoints(session: nox.Session) -> None:
    """An adapter and a whole checkpoint that the last released theworld-fusion wrote give the same answers in HEAD."""
    together = meetings.last_released(OWN["fusion"], session.cache_dir / "releases")
    if together is None:
        session.log("nothing released yet of theworld-fusion: there are no checkpoints of anybody's")
        return
    saved, script = Path(session.create_tmp()).resolve() / "saved", Path("tools/releasing/saved.py")
    install_wheels(session, [wheel(session, one.folder) for one in together])
    session.run("python", str(together[-1].root / script), "write", str(saved), env=ENVIRONMENT)
    install(session, with_siblings("fusion"))
    session.run("python", str(script), "read", str(saved), env=ENVIRONMENT)


@nox.session(default=False)
@each_package
def release(session: nox.Session, package: str) -> None:
    """Cut a release on a clean main: refuse, or check all, write, commit, tag, and print how to push. Never pushes."""
    one = OWN[package]
    stop_at(session, checks.release_check(one) + checks.gates_fault(ROOT, session.posargs))
    verb, scratch = [sys.executable, "-m", "nox", "-s"], session.cache_dir
    gates = checks.gates(ROOT, package, session.posargs, scratch / "releases")
    done = records.green(scratch / "green", ROOT, gates)
    for gate in gates:
        if gate in done:
            session.log(f"{gate} was green on these files at {done[gate]:%H:%M} UTC")
        else:
            session.run(*verb, gate, external=True)
    session.install(*CONSTRAINTS, "towncrier")
    version, today = checks.release_version(one), datetime.datetime.now(datetime.UTC).date()
    building = [*verb, f"build({package})", "--", "--no-example"]
    program = str(Path(session.bin) / "towncrier")
    command = cutting.cut(one, version, today, program=program, check=lambda: session.run(*building, external=True))
    session.log(f"{one.distribution} {version} is committed and tagged. To publish it:\n  {command}")


@nox.session(default=False)
def release_drill(session: nox.Session) -> None:
    """In a scratch clone: what has to be refused is, then first releases of all four, and one of encoders alone."""
    scratch = str(Path(session.create_tmp()).resolve())
    session.run(sys.executable, "-m", "releasing.drill", str(ROOT), scratch, external=True, env=TOOLS)


@nox.session
@recorded
def docs(session: nox.Session) -> None:
    """Build the pages into docs/_build/html, warnings being errors; run their examples; look up every name on them."""
    install(session, list(PACKAGES), "sphinx", "furo", "myst-parser", "nox", "pytest")
    for builder in ("html", "doctest"):
        where = ["docs", f"docs/_build/{builder}"]
        session.run("sphinx-build", "-q", "-W", "--keep-going", "-b", builder, *where, env=ENVIRONMENT)
    session.run("pytest", "-c", "pyproject.toml", "tests/docs", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """The whole idea on a micro-world: train, compare, and write a report to demo-report/."""
    install(session, list(PACKAGES))
    session.run("theworld", "demo", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """What the world costs: counts, and ratios to plain Gemma 3, diffusers and the algorithm before; `-- --full`."""
    install(session, list(PACKAGES), *test_groups(list(PACKAGES)))
    session.run("python", "-m", "benchmarks", *session.posargs, env={"HF_HUB_OFFLINE": "1"})


@nox.session(default=False)
def ablate(session: nox.Session) -> None:
    """Does the world help? Every control on a micro-world, three seeds: a report in runs/ablate/micro-world/."""
    install(session, list(PACKAGES))
    session.run("theworld", "ablate", *(session.posargs or ["micro-world"]))


@nox.session(default=False)
@nox.parametrize("placement", [nox.param(placement, id=placement) for placement in PLACEMENTS])
def gpu_integration(session: nox.Session, placement: str) -> None:
    """A placement on every accelerator here, else on the CPU and two processes; THEWORLD_REQUIRE_GPUS=n insists."""
    install(session, list(PACKAGES), *test_groups(list(PACKAGES)))
    session.env["THEWORLD_PLACEMENT"] = placement
    run_pytest(session, list(PACKAGES), "tests/gpu", "-n0")  # the ranks of a test have the devices to themselves


@nox.session(default=False)
def lmms_eval(session: nox.Session) -> None:
    """The plug-in for lmms-eval, with lmms-eval itself: of its fifty dependencies only what running a task imports."""
    install(session, list(PACKAGES), *test_groups(["train"]))
    session.install(*CONSTRAINTS, *LMMS_EVAL_IMPORTS)
    session.install("--no-deps", LMMS_EVAL)
    run_pytest(session, list(PACKAGES), f"{folder('train')}/tests/test_lmms_eval.py")


@nox.session(default=False)
def upstream(session: nox.Session) -> None:
    """Transformers' own tests on our classes, beside stock Gemma 3; TRANSFORMERS_SOURCE names a checkout of it."""
    install(session, list(PACKAGES), *test_groups(list(PACKAGES)), "httpx", "parameterized")
    session.run("pytest", "-c", "tests/upstream/pytest.ini", "tests/upstream", *session.posargs, env=ENVIRONMENT)
