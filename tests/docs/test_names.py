"""Every name on the pages is one that the code has: modules, fields, files, identifiers, YAML, links."""

import builtins
import importlib.util
import keyword
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from field_paths import is_field
from pages import PAGES, ROOT, Piece, blocks, imports, links, python, spans, vocabulary
from pydantic import TypeAdapter

from theworld_fusion import TheWorld
from theworld_train.recipe import DataSettings, PartName, PartSettings, Recipe

FOREIGN = {
    "_dynamo": "torch",
    "annotations": "__future__",
    "aot_eager": "torch._dynamo.backends.debugging",
    "automatic_dynamic_shapes": "torch._dynamo.config",
    "avg_pool3d": "torch.nn.functional",
    "chat_template_kwargs": "transformers.cli.serving.chat_completion",
    "compile_config": "transformers.generation.configuration_utils",
    "CompileConfig": "transformers.generation.configuration_utils",
    "Cosmos2VideoToWorldPipeline": "diffusers",
    "create_masks_for_generate": "transformers.masking_utils",
    "flash_attention_2": "transformers.masking_utils",
    "flex_attention": "transformers.masking_utils",
    "fsdp_auto_wrap_policy": "accelerate.commands.config.cluster",
    "fullgraph": "transformers.generation.configuration_utils",
    "Gemma3ForCausalLM": "transformers.models.gemma3.modeling_gemma3",
    "grad_fn": "torch._tensor",
    "inductor": "torch._dynamo.backends.inductor",
    "num_return_sequences": "transformers.generation.configuration_utils",
    "reduce-overhead": "torch",
    "StaticCache": "transformers.cache_utils",
    "torchrun": "torch.distributed.run",
    "trust_remote_code": "transformers.models.auto.auto_factory",
    "video_url": "transformers.cli.serving.utils",
}
"""Names that no source of ours has, by the module of the library that has them."""
FREE = {
    "SOW",
    "EOW",
    "IMG",
    "NAME",
    "list_NAME",
    "metre",
    "vsr_zeroshot",
    "list_sha256",
    "extra_body",
    "__future__",
    "train.jsonl",
    "dev.jsonl",
    "test.jsonl",
}
"""Placeholders, text that is read, and what data sets and OpenAI's client call things."""
ENDINGS = "py|md|ya?ml|jsonl?|png|html|txt|sbatch|safetensors|parquet|toml|jinja|zip"
FILE = re.compile(rf"[\w*-][\w.*/-]*(/|\.({ENDINGS}))")

SECTIONS = ("model", "stages", "batch", "optim", "eval", "save", "log")
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_*]\w*|\.\d+)+")


def resolve(name: str) -> Any:
    """The thing with a dotted name: a module, or an attribute of one."""
    module, rest = name, []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
            if not module:
                raise
    for step in rest:
        found = getattr(found, step)
    return found


@pytest.mark.parametrize("piece", [one for one in spans() if one.text.startswith("theworld_")], ids=str)
def test_dotted_names_of_ours_exist(piece: Piece) -> None:
    for name in re.findall(r"theworld_\w+(?:\.\w+)*", piece.text):
        if not name.endswith(("_x", ".toml", ".yaml", ".py")):
            resolve(name)


@pytest.mark.parametrize("piece", list(blocks("python", "{testcode}", "{doctest}", "{testsetup}")), ids=str)
def test_what_code_imports_exists(piece: Piece) -> None:
    compile(python(piece), str(piece), "exec")
    for module, name in imports(piece):
        resolve(f"{module}.{name}")


@pytest.mark.parametrize("piece", [one for one in spans() if DOTTED.fullmatch(one.text)], ids=str)
def test_paths_into_a_recipe_are_fields(piece: Piece) -> None:
    first = piece.text.partition(".")[0]
    if piece.text.startswith("model.") and hasattr(TheWorld, piece.text.removeprefix("model.")):
        return  # a method of the model
    if first in SECTIONS and not re.search(r"\.(py|yaml|jsonl?)$", piece.text):
        assert is_field(piece.text), f"{piece}: {piece.text} is no field of a recipe"


@pytest.mark.parametrize("piece", list(blocks("yaml")), ids=str)
def test_yaml_is_a_part_of_a_recipe(piece: Piece) -> None:
    content = yaml.safe_load(piece.text)
    kinds: dict[str, Any] = {"data": DataSettings, "parts": dict[PartName, PartSettings]}
    if set(content) == {"sources"}:
        content = {"data": content}
    if set(content) <= set(kinds):
        for key, value in content.items():
            TypeAdapter(kinds[key]).validate_json(TypeAdapter(Any).dump_json(value))
    else:
        Recipe.model_validate(content)


@cache
def files() -> frozenset[str]:
    """Every file and folder of the tree, by each of its endings: ``fit.py``, ``probe/fit.py`` and so on."""
    paths = [path.relative_to(ROOT).parts for path in ROOT.rglob("*") if ".git" not in path.relative_to(ROOT).parts]
    return frozenset("/".join(parts[place:]) for parts in paths for place in range(len(parts)))


@pytest.mark.parametrize("piece", [one for one in spans() if FILE.fullmatch(one.text)], ids=str)
def test_files_are_there_or_written_by_the_code(piece: Piece) -> None:
    path = piece.text.rstrip("/")
    if path not in files():
        name = path.rpartition("/")[2]
        pieces = re.split(r"[A-Z]+|\d+|\*", name)  # what stands for a number or name: checkpoint-N, skipped-R.jsonl
        written = name in vocabulary() | FREE or (len(pieces) > 1 and all(one in joined() for one in pieces))
        assert written, f"{piece}: there is no {piece.text}, and no source writes one"


@cache
def joined() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("packages/*/src/**/*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_identifiers_are_in_the_sources(page: Path) -> None:
    unknown = set[str]()
    for piece in spans((page,)):
        if FILE.fullmatch(piece.text):
            continue
        for word in re.findall(r"[A-Za-z_]\w{2,}", piece.text):
            if word in FOREIGN:
                spec = importlib.util.find_spec(FOREIGN[word])
                assert spec, f"{piece}: there is no module {FOREIGN[word]}"
                assert word in Path(str(spec.origin)).read_text(encoding="utf-8"), f"{FOREIGN[word]} has no {word}"
            elif word not in vocabulary() | FREE | set(dir(builtins)) | set(keyword.kwlist):
                pieces = re.split(r"\d+", word)  # within_25 is written as within_{share}
                if len(pieces) == 1 or not all(one in joined() for one in pieces):
                    unknown.add(f"{word} ({piece})")
        is_name = re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", piece.text) and not re.fullmatch(r"http-\d{3}", piece.text)
        if is_name and piece.text not in vocabulary() | FREE | FOREIGN.keys():
            unknown.add(f"{piece.text} ({piece})")
    remedy = "Mend them; of another library, say in FOREIGN which module has them."
    assert not unknown, f"no source has {', '.join(sorted(unknown))}. {remedy}"


@pytest.mark.parametrize("piece", [one for one in links() if "://" not in one.text], ids=str)
def test_links_inside_the_repository_lead_somewhere(piece: Piece) -> None:
    path, _, anchor = piece.text.partition("#")
    target = piece.page.parent / path if path else piece.page
    assert target.exists(), f"{piece}: there is no {path}"
    if anchor:
        headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{piece}: {target.name} has no heading {anchor}"


def tree() -> dict[str, list[str]]:
    """The names in the README's tree of each package's sources."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("```\nREADME.md")[2].partition("\n```")[0]
    found, current = dict[str, list[str]](), ""
    for line in text.splitlines():
        if match := re.match(r"(packages/\S+/)\s", line):
            current = match[1]
        elif current and line.startswith("  "):
            entry = re.match(r" +((?:[\w./]+(?:, )?)+)", line)
            found.setdefault(current, []).extend(re.findall(r"[\w./]+", entry[1] if entry else ""))
    return found


def test_the_readmes_tree_is_the_tree() -> None:
    named = tree()
    assert len(named) == 4
    for folder, names in named.items():
        source = ROOT / folder
        there = {path.name for path in source.rglob("*")}
        assert (missing := [name for name in names if name.rstrip("/") not in there]) == [], f"not there: {missing}"
        top = [path.name for path in source.glob("*.py") if path.name not in ("__init__.py",)]
        top += [f"{path.name}/" for path in source.iterdir() if path.is_dir() and path.name != "__pycache__"]
        assert (left := [name for name in top if name not in names]) == [], f"not in the README's tree: {left}"
