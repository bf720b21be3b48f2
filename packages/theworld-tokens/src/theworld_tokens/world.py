"""The three tokens that TheWorld adds: two boundaries and the placeholder that a world feature overwrites."""

from enum import IntEnum


class WorldToken(IntEnum):
    """Ids of the world tokens behind the published Gemma 3 tokenizer: its first three spare embedding rows."""

    START_OF_WORLD = 262_145
    END_OF_WORLD = 262_146
    WORLD_SOFT = 262_147

    @property
    def text(self) -> str:
        """The token as it stands in a prompt, e.g. ``<start_of_world>``."""
        return "<world_soft_token>" if self is WorldToken.WORLD_SOFT else f"<{self.name.lower()}>"
