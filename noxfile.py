# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.5.1"]
# ///
"""Every verb of this repository. Plain `nox` runs what CI runs; `nox -l` lists the others."""

import hashlib
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"

PLUGIN = Path("examples/theworld-patch-motion")
PACKAGES = ("tokens", "encoders", "fusion", "train")  # leaves first
CONSTRAINTS = ("-c", "constraints/ci.txt")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # what runs here may not need the network
    "OMP_NUM_THREADS": "1",  # the models are toys: more threads take longer, and change the last bits of sums
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16",  # some virtual machines announce AMX, and bf16 then dies on it
}
PLACEMENTS = ("single", "split", "ddp2", "fsdp2", "fsdp2_offload")  # tests/gpu says what each runs on
MAX_LINES = 400
LMMS_EVAL = "lmms-eval==0.7.3"
LMMS_EVAL_IMPORTS = ("evaluate", "loguru", "numexpr", "python-dotenv", "pytz", "sacrebleu", "scikit-learn")

each_package = nox.parametrize("package", [nox.param(package, id=package) for package in PACKAGES])


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
    files = [home / "pyproject.toml", home / "README.md", home / "LICENSE"]
    files += [*sorted(home.glob("*.py")), *sorted(home.glob("src/*/**/*"))]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path}\0".encode() + path.read_bytes())
    built = session.cache_dir / "wheels" / digest.hexdigest()[:16]
    if not list(built.glob("*.whl")):
        session.run("pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={built}", f"./{home}")
    return str(next(built.glob("*.whl")).resolve())


def install(session: nox.Session, packages: list[str], *others: str) -> None:
    """Install wheels of the tree by path, so that pip holds each to the ranges that the others declare."""
    wheels = [wheel(session, folder(package)) for package in packages]
    session.install(*CONSTRAINTS, *wheels, *others)
    session.install("--force-reinstall", "--no-deps", *wheels)  # a reused environment keeps older ones otherwise
    session.run("pip", "check", silent=True)


def test_groups(packages: list[str]) -> list[str]:
    return sorted({need for package in packages for need in nox.project.dependency_groups(metadata(package), "test")})


def run_pytest(session: nox.Session, packages: list[str], where: str) -> None:
    """Run tests, with shapes checked in every module that annotates them."""
    shaped = [
        ".".join(path.relative_to(folder(package) / "src").with_suffix("").parts)
        for package in packages
        for path in sorted(folder(package).glob("src/**/*.py"))
        if "from jaxtyping import" in path.read_text()
    ]
    hook = [f"--jaxtyping-packages={','.join(shaped)},shapecheck.check"] if shaped else []
    session.run("pytest", "-c", "pyproject.toml", *hook, where, *session.posargs, env=ENVIRONMENT)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, file length, and changelog fragments that render."""
    session.install(*CONSTRAINTS, "ruff", "codespell", "towncrier")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell", "README.md", "CONTRIBUTING.md", "docs", "examples", "packages", "tests", "noxfile.py")
    for package in PACKAGES:
        session.run("towncrier", "build", "--draft", "--version=next", "--dir", str(folder(package)), silent=True)
    sources = [Path("noxfile.py"), *Path("benchmarks").rglob("*.py"), *Path("packages").glob("*/src/**/*.py")]
    sources += PLUGIN.glob("*.py")
    lengths = {path: len(path.read_text().splitlines()) for path in sources}
    too_long = [f"{path} has {lines} lines" for path, lines in lengths.items() if lines > MAX_LINES]
    if too_long:
        session.error(f"{'; '.join(too_long)}. Cut what is over {MAX_LINES} into modules named by the noun they hold.")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Pyright over the sources of all four packages."""
    install(session, list(PACKAGES), "pyright", "peft")  # peft: of an extra, and imported where asked for
    session.run("pyright", *session.posargs)


@nox.session
@each_package
def tests(session: nox.Session, package: str) -> None:
    """One package's tests on its built wheel, with nothing but what it declares."""
    packages = with_siblings(package)
    install(session, packages, *test_groups([package]))
    run_pytest(session, packages, f"{folder(package)}/tests")


@nox.session
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
def build(session: nox.Session, package: str) -> None:
    """Build one package's sdist, and its wheel from that sdist, into dist/, and inspect both."""
    session.install(*CONSTRAINTS, "build", "hatchling", "twine", "check-wheel-contents")
    name = f"theworld_{package}"
    for old in Path("dist").glob(f"{name}-*"):
        old.unlink()
    session.run("python", "-m", "build", "--no-isolation", "--outdir=dist", str(folder(package)), silent=True)
    [sdist], [built] = Path("dist").glob(f"{name}-*.tar.gz"), Path("dist").glob(f"{name}-*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(built))
    session.run("check-wheel-contents", f"--toplevel={name}", str(built))
    with zipfile.ZipFile(built) as archive:
        expect(session, built, archive.namelist(), f"{name}/py.typed", ".dist-info/licenses/LICENSE")
    with tarfile.open(sdist) as archive:
        expect(session, sdist, archive.getnames(), f"/src/{name}/py.typed", "/LICENSE", "/tests/test_")


def expect(session: nox.Session, archive: Path, names: list[str], *parts: str) -> None:
    missing = [part for part in parts if not any(part in name for name in names)]
    if missing:
        session.error(f"{archive} has no {', '.join(missing)}. See [tool.hatch.build] of its pyproject.toml.")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages into docs/_build/html, warnings being errors, and run the examples on them."""
    install(session, list(PACKAGES), "sphinx", "furo", "myst-parser")
    for builder in ("html", "doctest"):
        where = ["docs", f"docs/_build/{builder}"]
        session.run("sphinx-build", "-q", "-W", "--keep-going", "-b", builder, *where, env=ENVIRONMENT)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """The whole idea on a micro-world: train, compare, and write a report to demo-report/."""
    install(session, list(PACKAGES))
    session.run("theworld", "demo", *session.posargs)


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
    run_pytest(session, list(PACKAGES), "tests/gpu")


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
