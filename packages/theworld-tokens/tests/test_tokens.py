"""The published table, layouts read from tokenizers, and registration on any tokenizer."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import theworld_tokens as tokens
from theworld_tokens import GEMMA3, Gemma3Token, TokenLayout, TokenLayoutError, WorldToken, register_world_tokens


class DictTokenizer:
    """The smallest thing with a tokenizer's usual methods; ids are given in order of addition."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.vocab = {text: index for index, text in enumerate(texts)}
        self.special: set[str] = set()

    def __len__(self) -> int:
        return len(self.vocab)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.vocab)

    def add_tokens(self, new_tokens: list[str], special_tokens: bool = False) -> int:
        for text in new_tokens:
            self.vocab[text] = self.next_id()
            if special_tokens:
                self.special.add(text)
        return len(new_tokens)

    def next_id(self) -> int:
        return len(self.vocab)


class GappyTokenizer(DictTokenizer):
    """Gives ids beyond its length, as a tokenizer with a hole in its vocabulary does."""

    def next_id(self) -> int:
        return len(self.vocab) + 5


GEMMA_TEXTS = [token.text for token in Gemma3Token]


def gemma_sized(cls: type[DictTokenizer] = DictTokenizer) -> DictTokenizer:
    """A tokenizer of Gemma 3's length with its special tokens at their published ids and <unusedN> elsewhere."""
    texts = [f"<unused{index}>" for index in range(262_145)]
    for token in Gemma3Token:
        texts[token] = token.text
    return cls(texts)


def test_published_table() -> None:
    """Published checkpoints hold these ids: after a release, the golden file only changes with a breaking fragment."""
    golden = json.loads((Path(__file__).parent / "golden/token_table.json").read_text())
    assert golden == {
        "tokens": {token.text: int(token) for token in (*Gemma3Token, *WorldToken)},
        "vocab_rows": tokens.GEMMA3_VOCAB_ROWS,
        "ignore_index": tokens.IGNORE_INDEX,
        "layout": GEMMA3.to_dict(),
    }
    assert max(GEMMA3.to_dict().values()) < tokens.GEMMA3_VOCAB_ROWS == 262_208


def test_flat_constants_are_the_table() -> None:
    assert (tokens.BOS_TOKEN_ID, tokens.EOS_TOKEN_ID, tokens.PAD_TOKEN_ID) == (GEMMA3.bos, GEMMA3.eos, GEMMA3.pad)
    assert tokens.IMAGE_SOFT_TOKEN_ID == GEMMA3.image_soft_token
    assert (tokens.START_OF_TURN_TOKEN_ID, tokens.END_OF_TURN_TOKEN_ID) == (GEMMA3.start_of_turn, GEMMA3.end_of_turn)
    assert (tokens.SOW_TOKEN_ID, tokens.EOW_TOKEN_ID) == (GEMMA3.start_of_world, GEMMA3.end_of_world)
    assert tokens.WORLD_SOFT_TOKEN_ID == GEMMA3.world_soft_token
    assert tokens.IGNORE_INDEX == -100


def test_registration_on_a_tokenizer_of_gemmas_length_gives_the_published_ids() -> None:
    tokenizer = gemma_sized()
    assert len(tokenizer) == 262_145
    register_world_tokens(tokenizer, GEMMA3)
    ids = [tokenizer.get_vocab()[token.text] for token in WorldToken]
    assert ids == [262_145, 262_146, 262_147]
    assert tokenizer.special == {token.text for token in WorldToken}
    assert TokenLayout.from_tokenizer(tokenizer) == GEMMA3


def test_registration_twice_changes_nothing() -> None:
    tokenizer = DictTokenizer(GEMMA_TEXTS)
    layout = TokenLayout.from_tokenizer(tokenizer)
    register_world_tokens(tokenizer, layout)
    vocab = tokenizer.get_vocab()
    register_world_tokens(tokenizer, layout)
    assert tokenizer.get_vocab() == vocab
    assert TokenLayout.from_tokenizer(tokenizer) == layout


def test_layout_of_a_small_tokenizer_takes_the_next_free_ids() -> None:
    layout = TokenLayout.from_tokenizer(DictTokenizer(GEMMA_TEXTS))
    assert (layout.start_of_world, layout.end_of_world, layout.world_soft_token) == (8, 9, 10)
    assert layout.image_soft_token == 7


def test_a_partly_registered_tokenizer_is_completed() -> None:
    tokenizer = DictTokenizer([*GEMMA_TEXTS, "<end_of_world>"])
    register_world_tokens(tokenizer, TokenLayout.from_tokenizer(tokenizer))
    assert [tokenizer.vocab[token.text] for token in WorldToken] == [9, 8, 10]


def test_differing_ids_are_named_and_nothing_is_added() -> None:
    tokenizer = DictTokenizer(GEMMA_TEXTS)
    with pytest.raises(TokenLayoutError, match=r"<start_of_world> is 8, not 262145") as error:
        register_world_tokens(tokenizer, GEMMA3)
    assert "<end_of_turn> is 4, not 106" in str(error.value)
    assert len(tokenizer) == len(GEMMA_TEXTS)


def test_a_tokenizer_with_a_hole_is_refused() -> None:
    with pytest.raises(TokenLayoutError, match=r"<start_of_world> became 262150, not 262145"):
        register_world_tokens(gemma_sized(GappyTokenizer), GEMMA3)


def test_a_foreign_tokenizer_is_refused() -> None:
    with pytest.raises(TokenLayoutError, match="<start_of_image>, <end_of_image>, <image_soft_token>"):
        TokenLayout.from_tokenizer(DictTokenizer(GEMMA_TEXTS[:5]))


@pytest.mark.parametrize("num_tokens", [1, 49, 784])
def test_world_span(num_tokens: int) -> None:
    span = tokens.world_span(num_tokens, GEMMA3)
    assert span == [262_145] + [262_147] * num_tokens + [262_146]
    assert tokens.world_text(num_tokens).count("<world_soft_token>") == num_tokens
    assert tokens.world_text(num_tokens).startswith("<start_of_world><world_soft_token>")


@pytest.mark.parametrize("num_tokens", [0, -1])
def test_an_empty_world_span_is_refused(num_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{num_tokens} tokens is empty"):
        tokens.world_span(num_tokens, GEMMA3)
    with pytest.raises(ValueError, match=f"{num_tokens} tokens is empty"):
        tokens.world_text(num_tokens)


def test_layout_is_immutable() -> None:
    with pytest.raises(AttributeError):
        GEMMA3.bos = 7  # pyright: ignore[reportAttributeAccessIssue]


def test_import_needs_the_standard_library_only() -> None:
    script = (
        "import sys; before = set(sys.modules); import theworld_tokens; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - {'theworld_tokens'}; "
        "sys.exit(str(new - set(sys.stdlib_module_names)) if new - set(sys.stdlib_module_names) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert tokens.__version__ == version("theworld-tokens")
