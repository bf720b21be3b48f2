"""Asking a model: the log-probability of each given choice, or what it says itself, greedily.

Both ways ask with the same prompt, encode its pictures and clips once, and look whether world tokens arrived. Choices
are compared behind one prompt: it is run once, however many there are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from theworld_fusion import TheWorldProcessor
from theworld_train.evaluate.prompts import Encodings, Prompt, encode, stack
from theworld_train.evaluate.watch import WorldIgnored, WorldWatch, check_influence

Method = Literal["likelihood", "generate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model answers to one prompt.

    Attributes:
        text: the likeliest choice, or what was generated, stripped.
        likelihoods: log-probability of each choice.
        greedy: for each choice, whether it is what greedy decoding says.
        tokens: of the answer, with its end-of-turn if it has one.
        consumed: whether the prompt's world tokens reached the language model.
    """

    text: str
    likelihoods: dict[str, float] | None = None
    greedy: dict[str, bool] | None = None
    tokens: int
    consumed: bool


class Asker:
    """A model and how it is asked.

    Args:
        model: TheWorld; with the world off also the base VLM.
        max_new_tokens: length of a generated answer at most.
        decoding: other settings of ``generate`` than greedy decoding.
    """

    def __init__(
        self,
        model: Any,
        processor: TheWorldProcessor,
        *,
        method: Method,
        max_new_tokens: int = 0,
        decoding: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.method: Method = method
        self.max_new_tokens = max_new_tokens
        self.decoding = {"do_sample": False} if decoding is None else dict(decoding)
        self.pad_token_id: int = processor.tokenizer.pad_token_id
        self._checked = False

    @torch.no_grad()
    def ask(
        self, prompts: Sequence[Prompt], choices: Sequence[dict[str, Int[Tensor, " _"]]] | None = None
    ) -> list[Reply]:
        """Replies to prompts, as one batch.

        Args:
            choices: for each prompt its choices with their tokens; needed to compare likelihoods.

        Raises:
            WorldIgnored: there is world input, and it does not reach the language model.
            ValueError: a likelihood is not a finite number.
        """
        encodings = encode(self.model, prompts)
        self._check(prompts)
        with WorldWatch(self.model) as watch:
            if self.method == "generate":
                replies = self._generate(prompts, encodings, watch)
            else:
                replies = self._compare(prompts, encodings, watch, choices or ())
        for prompt, reply in zip(prompts, replies, strict=True):
            if prompt.items and not reply.consumed:
                raise WorldIgnored(
                    "the world is on, but its tokens do not stand in the language model's input: the answers would be "
                    "the base VLM's. Give a model that uses its world branch, or turn the world off."
                )
        return replies

    def _check(self, prompts: Sequence[Prompt]) -> None:
        """Once, since it takes a pass of its own."""
        first = next((prompt for prompt in prompts if prompt.items), None)
        if first is not None and not self._checked:
            check_influence(self.model, first, encode(self.model, [first]), self.pad_token_id)
            self._checked = True

    def _compare(
        self,
        prompts: Sequence[Prompt],
        encodings: Encodings,
        watch: WorldWatch,
        choices: Sequence[dict[str, Int[Tensor, " _"]]],
    ) -> list[Reply]:
        rows = [row for row, options in enumerate(choices) for _ in options]
        ends = [tokens for options in choices for tokens in options.values()]
        inputs = stack(prompts, None, self.pad_token_id, self.model.device)
        begun = self.model(
            **inputs,
            position_ids=positions(inputs["attention_mask"]),
            mm_encoder_outputs=encodings.for_rows(range(len(prompts))),
            logits_to_keep=1,
            use_cache=True,
        )
        reached = watch.reached(inputs["input_ids"], encodings, range(len(prompts)))
        logits = self._continue(begun, inputs["attention_mask"], rows, ends)
        sums, greedy = (iter(found.tolist()) for found in score(logits, ends))
        replies = []
        for row, options in enumerate(choices):
            likelihoods = {choice: next(sums) for choice in options}
            if wrong := [value for value in likelihoods.values() if not math.isfinite(value)]:
                raise ValueError(f"a choice's log-probability is {wrong[0]}. Look at the model's weights and dtype.")
            best = max(likelihoods, key=likelihoods.__getitem__)  # of equals the first
            said = {choice: next(greedy) for choice in options}
            tokens = len(options[best])
            replies.append(Reply(text=best, likelihoods=likelihoods, greedy=said, tokens=tokens, consumed=reached[row]))
        return replies

    def _continue(
        self,
        begun: Any,
        attention_mask: Int[Tensor, "b l"],
        rows: Sequence[int],
        answers: Sequence[Int[Tensor, " _"]],
    ) -> Float[Tensor, "r k v"]:
        """Logits at each answer's tokens: its prompt was run once for all of its answers.

        Args:
            begun: the model's output for the prompts.
            rows: each answer's prompt.
        """
        of = torch.tensor(rows, device=attention_mask.device)
        logits = begun.logits[of]
        if (longest := max(len(tokens) for tokens in answers) - 1) == 0:
            return logits
        # On the right, where padding is seen by nothing.
        known = [nn.functional.pad(tokens[:-1], (0, longest + 1 - len(tokens)), value=-1) for tokens in answers]
        ids = torch.stack(known).to(attention_mask)
        mask = torch.cat([attention_mask[of], (ids >= 0).to(attention_mask)], dim=1)
        begun.past_key_values.batch_select_indices(of)
        after = self.model(
            input_ids=ids.where(ids >= 0, self.pad_token_id),
            attention_mask=mask,
            position_ids=positions(mask)[:, -longest:],
            past_key_values=begun.past_key_values,
            use_cache=True,
        )
        return torch.cat([logits, after.logits], dim=1)

    def _generate(self, prompts: Sequence[Prompt], encodings: Encodings, watch: WorldWatch) -> list[Reply]:
        rows = range(len(prompts))
        inputs = stack(prompts, None, self.pad_token_id, self.model.device)
        ids = self.model.generate(
            **inputs,
            mm_encoder_outputs=encodings.for_rows(rows),
            max_new_tokens=self.max_new_tokens,
            **self.decoding,
        )
        reached = watch.reached(inputs["input_ids"], encodings, rows)
        replies = []
        for row, consumed in zip(ids[:, inputs["input_ids"].shape[1] :], reached, strict=True):
            text: Any = self.processor.tokenizer.decode(row, skip_special_tokens=True)
            tokens = int((row != self.pad_token_id).sum())
            replies.append(Reply(text=text.strip(), tokens=tokens, consumed=consumed))
        return replies


def positions(attention_mask: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
    """Of rows that are padded on the left, as ``generate`` counts them."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def score(logits: Tensor, answers: Sequence[Int[Tensor, " _"]]) -> tuple[Tensor, Tensor]:
    """Of each row's answer: the sum of its tokens' log-probabilities in float32, and whether each token is the
    likeliest at its place; both ``[b]``.

    Args:
        logits: where each answer begins and after each of its tokens, ``[b, k, v]``.
    """
    sums, greedy = [], []
    for row, answer in zip(logits, answers, strict=True):  # row by row: a float32 copy of all is twice their memory
        scores, wanted = row[: len(answer)].float(), answer.to(row.device)
        chosen = scores.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        sums.append((chosen - scores.logsumexp(-1)).sum())
        greedy.append((scores.argmax(-1) == wanted).all())
    return torch.stack(sums), torch.stack(greedy)
