"""Gemma 3's own special tokens: ids and texts of the published tokenizer (google/gemma-3-4b-it)."""

from enum import IntEnum


class Gemma3Token(IntEnum):
    """Ids of the special tokens that a multimodal Gemma 3 prompt is made of."""

    PAD = 0
    EOS = 1
    BOS = 2
    START_OF_TURN = 105
    END_OF_TURN = 106
    START_OF_IMAGE = 255_999
    END_OF_IMAGE = 256_000
    IMAGE_SOFT = 262_144

    @property
    def text(self) -> str:
        """The token as it stands in a prompt, e.g. ``<start_of_turn>``."""
        return "<image_soft_token>" if self is Gemma3Token.IMAGE_SOFT else f"<{self.name.lower()}>"


GEMMA3_VOCAB_ROWS = 262_208
"""Rows of the published embedding matrix: 63 more than the tokenizer has ids, so three new tokens need no resize."""
