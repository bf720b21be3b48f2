"""Special tokens of TheWorld: Gemma 3's table and the three world tokens behind it. Standard library only."""

from theworld_tokens.gemma3 import GEMMA3_VOCAB_ROWS as GEMMA3_VOCAB_ROWS
from theworld_tokens.gemma3 import Gemma3Token as Gemma3Token
from theworld_tokens.layout import GEMMA3 as GEMMA3
from theworld_tokens.layout import IGNORE_INDEX as IGNORE_INDEX
from theworld_tokens.layout import TokenLayout as TokenLayout
from theworld_tokens.layout import TokenLayoutError as TokenLayoutError
from theworld_tokens.layout import register_world_tokens as register_world_tokens
from theworld_tokens.layout import world_span as world_span
from theworld_tokens.layout import world_text as world_text
from theworld_tokens.world import WorldToken as WorldToken

PAD_TOKEN_ID = int(Gemma3Token.PAD)
EOS_TOKEN_ID = int(Gemma3Token.EOS)
BOS_TOKEN_ID = int(Gemma3Token.BOS)
START_OF_TURN_TOKEN_ID = int(Gemma3Token.START_OF_TURN)
END_OF_TURN_TOKEN_ID = int(Gemma3Token.END_OF_TURN)
IMAGE_SOFT_TOKEN_ID = int(Gemma3Token.IMAGE_SOFT)
SOW_TOKEN_ID = int(WorldToken.START_OF_WORLD)
EOW_TOKEN_ID = int(WorldToken.END_OF_WORLD)
WORLD_SOFT_TOKEN_ID = int(WorldToken.WORLD_SOFT)


def __getattr__(name: str) -> str:
    # importlib.metadata alone costs a third of the import time budget, so the version is read when asked for.
    if name == "__version__":
        from importlib.metadata import version

        return version("theworld-tokens")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
