"""Every message that the page on troubleshooting quotes is one that the code, or the library it names, really has."""

import ast
import importlib.util
import mmap
import re
from functools import cache
from pathlib import Path

import pytest
from pages import ROOT, Piece, blocks, strings

PAGE = ROOT / "docs/troubleshooting.md"
OURS = list(blocks("text", pages=(PAGE,)))
THEIRS = list(blocks("{code-block}", pages=(PAGE,)))
LEAST = 20
"""Letters that a message's own text must have, so that it is not all values."""


@cache
def templates() -> list[tuple[int, re.Pattern[str]]]:
    """Every text of the sources as a pattern in which values are open, with the letters that are not."""
    found = []
    for path in ROOT.glob("packages/*/src/**/*.py"):
        for node in strings(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [str(part.value) if isinstance(part, ast.Constant) else None for part in parts]
            letters = sum(len(text) for text in fixed if text)
            if letters >= LEAST:
                pattern = "".join(".+?" if text is None else re.escape(text) for text in fixed)
                pattern = pattern.replace(re.escape("{}"), ".+?")  # of str.format
                found.append((letters, re.compile(pattern, re.DOTALL)))
    return found


def is_ours(message: str) -> bool:
    """Whether a text of the sources makes the message, and at least a quarter of it is not values."""
    text = " ".join(message.split()).removeprefix("theworld: ")
    return any(4 * letters >= len(text) and pattern.fullmatch(text) for letters, pattern in templates())


@pytest.mark.parametrize("piece", OURS, ids=str)
def test_messages_are_in_our_sources(piece: Piece) -> None:
    for message in piece.text.strip().split("\n\n"):
        assert is_ours(message), f"{piece}: no source of ours says: {message}"


def test_an_invented_message_is_found_out() -> None:
    real = "runs/a holds a run already. Go on with it (--resume), or start a new one in another folder (--out)."
    assert is_ours(real)
    assert not is_ours(real.replace("holds a run", "has a run"))
    assert not is_ours(real + " Or do not.")
    assert len(OURS) > 10
    assert len(THEIRS) > 2


@pytest.mark.parametrize("piece", THEIRS, ids=str)
def test_messages_of_libraries_are_in_them(piece: Piece) -> None:
    caption = re.search(r"^:caption: (\w+)$", piece.text, re.MULTILINE)
    assert caption, f"{piece}: name the library, :caption: torch"
    body = re.sub(r"^:\w+:.*\n", "", piece.text, flags=re.MULTILINE)
    for text in re.split(r"\.\.\.|\n", body):
        if text.strip():
            assert any(text.strip().encode() in content for content in contents(caption[1])), f"{piece}: {text}"


def contents(library: str):
    """Python files of an installed library, then its shared objects."""
    spec = importlib.util.find_spec(library)
    folder = Path(str(spec and spec.origin)).parent
    assert folder.is_dir(), f"{library} is not installed"
    for path in folder.rglob("*.py"):
        yield path.read_bytes()
    for path in folder.rglob("*.so"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield _Mapped(content)


class _Mapped:
    def __init__(self, content: mmap.mmap) -> None:
        self._content = content

    def __contains__(self, text: bytes) -> bool:
        return self._content.find(text) >= 0
