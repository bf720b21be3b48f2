"""The pages that people read, taken apart: fenced blocks, inline code and links, with the line that each stands on."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = (
    *sorted({*ROOT.glob("docs/**/*.md")} - {*ROOT.glob("docs/_*/**/*.md")}),
    ROOT / "README.md",
    *sorted(ROOT.glob("packages/*/README.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
)
SOURCES = (
    *sorted(ROOT.glob("packages/*/src/**/*")),
    *sorted(ROOT.glob("packages/*/pyproject.toml")),
    *(
        path
        for name in ("tools", "tests/gpu", "benchmarks", "examples", ".github")
        for path in ROOT.glob(f"{name}/**/*")
    ),
    *(ROOT / name for name in ("noxfile.py", "pyproject.toml", "constraints/ci.txt", "docs/conf.py")),
)


@dataclass(frozen=True)
class Piece:
    """A part of a page."""

    page: Path
    line: int
    text: str
    kind: str = ""
    """Of a fenced block: what stands behind the fence, ``console`` or ``{testcode}``."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(*kinds: str, pages: tuple[Path, ...] = PAGES) -> Iterator[Piece]:
    """Fenced blocks whose info string begins with one of ``kinds``."""
    for page in pages:
        if page.is_file():
            for token in _tokens(page):
                if token.type == "fence" and token.info.strip().startswith(kinds):
                    yield Piece(page, token.map[0] + 1, token.content, token.info.strip())


def spans(pages: tuple[Path, ...] = PAGES) -> Iterator[Piece]:
    """Inline code. What stands in a role is left out: ``literal`` has names of others, ``doc`` those of pages."""
    for page, line, children in _inline(pages):
        for before, token in zip([None, *children], children, strict=False):
            in_a_role = before is not None and before.content.endswith(("{literal}", "{doc}"))
            if token.type == "code_inline" and not in_a_role:
                yield Piece(page, line, token.content.strip())


def links(pages: tuple[Path, ...] = PAGES) -> Iterator[Piece]:
    """Where links and pictures lead."""
    for page, line, children in _inline(pages):
        for token in children:
            if token.type in ("link_open", "image"):
                yield Piece(page, line, str(token.attrs.get("href", token.attrs.get("src"))))


def _inline(pages: tuple[Path, ...]) -> Iterator[tuple[Path, int, list[Token]]]:
    for page in pages:
        line = 1
        for token in _tokens(page) if page.is_file() else ():
            line = token.map[0] + 1 if token.map else line
            if token.children:
                yield page, line, token.children


def commands(piece: Piece) -> Iterator[str]:
    """What is typed in a ``console`` block, one command a line, without prompts and comments."""
    for line in piece.text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            yield re.sub(r"\s+#.*", "", line[2:]).strip()


def python(piece: Piece) -> str:
    """The code of a Python, ``{testcode}`` or ``{doctest}`` block."""
    if piece.kind.startswith("{doctest}"):
        lines = (line[4:] for line in piece.text.splitlines() if line.startswith((">>> ", "... ")))
        return "\n".join(lines)
    return re.sub(r"\A(:\w+:.*\n)+", "", piece.text)


def imports(piece: Piece) -> Iterator[tuple[str, str]]:
    """Module and name of everything that a block of code imports from our packages."""
    for node in ast.walk(ast.parse(python(piece))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("theworld_"):
            for alias in node.names:
                yield str(node.module), alias.name


@cache
def vocabulary() -> frozenset[str]:
    """Every word of the sources, names with hyphens or dots in them too. Comments and docstrings are left out."""
    words = set[str]()
    for path in SOURCES:
        if path.is_file() and path.suffix in {".py", ".toml", ".yaml", ".yml", ".jinja", ".txt"}:
            text = path.read_text(encoding="utf-8")
            for part in _code(text) if path.suffix == ".py" else [text]:
                words.update(re.findall(r"\w+", part))
                words.update(re.findall(r"[\w-]+(?:[.-][\w-]+)+", part))
        words.add(path.name)
    return frozenset(words)


def strings(tree: ast.AST) -> Iterator[ast.Constant | ast.JoinedStr]:
    """Literal texts of a module; docstrings are none, nor is what an f-string is made of."""
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
        is_text = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        if is_text and id(node) not in skipped:
            yield node  # pyright: ignore[reportReturnType]


def _code(text: str) -> Iterator[str]:
    tree = ast.parse(text)
    for node in strings(tree):
        yield ast.unparse(node)
    for node in ast.walk(tree):
        for name in ("id", "attr", "arg", "name", "module", "asname"):
            if isinstance(found := getattr(node, name, None), str):
                yield found
