"""What is kept of every answer."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One line of ``records.jsonl``: an item, what was answered, and what that is worth.

    Attributes:
        key, family, group: the item's.
        prompt: the text that the model saw, special tokens included, runs of world and image placeholders shortened.
        wanted: the data set's answer.
        answer: what the model said or chose.
        score: 0 to 1; ``None`` where no answer could be read, or where ``error`` says why there is none.
        chance: expected score of a guess among the item's choices; 0 where there are none.
        parsed: what was read from the answer.
        likelihoods: log-probability of each choice, where choices were compared.
        prompt_tokens, world_tokens, image_tokens, answer_tokens: how many the model consumed and gave.
        world_consumed: whether world features reached the language model.
        figures: further ones, by name.
        error: what went wrong with this item alone; it is then no answer, right or wrong.
    """

    key: str
    family: str
    group: str
    prompt: str
    wanted: str
    answer: str | None
    score: float | None
    chance: float
    parsed: str | None = None
    likelihoods: dict[str, float] | None = None
    prompt_tokens: int = 0
    world_tokens: int = 0
    image_tokens: int = 0
    answer_tokens: int = 0
    world_consumed: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    error: str | None = None
