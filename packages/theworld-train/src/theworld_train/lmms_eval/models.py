# pyright: reportMissingImports=false
# lmms-eval is no dependency; see this package's own module.
"""The two classes that lmms-eval makes: one for tasks that give chats, one for a text with visuals beside it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms

from theworld_train.data.lazy import load_chat
from theworld_train.errors import UsageError
from theworld_train.evaluate.arms import check_arm, split_arm, takes_other_item, with_control
from theworld_train.evaluate.asker import Asker, Reply
from theworld_train.evaluate.prompts import Prompt, choice_tokens, make_prompt
from theworld_train.evaluate.subject import load_subject
from theworld_train.media import CLIPS

_MAX_NEW_TOKENS = 128
"""Where the task does not say."""


class _TheWorld(lmms):
    """What both share.

    Args:
        pretrained: folder or hub id of a checkpoint or adapter.
        arm: on, off, or a control, as in ``theworld evaluate``.
        batch_size: requests that are asked together.
        device: default: this process's accelerator, or the CPU.
        dtype: default: bfloat16 on an accelerator, float32 on a CPU.
    """

    def __init__(
        self,
        pretrained: str,
        arm: str = "on",
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        accelerator = Accelerator(cpu=device == "cpu")
        several = accelerator.num_processes > 1
        self._device = torch.device(device) if device and not several else accelerator.device
        subject = load_subject(str(pretrained), None, dtype=dtype, device=self._device)
        self.model, self.processor = subject.model.eval(), subject.processor
        world, control = split_arm(arm)
        self._world: Literal["on", "off"] = world
        check_arm(self.model, self._world, control)
        if self._world == "on" and takes_other_item(self.model, control):
            raise UsageError("other-item needs all items of a task. Use theworld evaluate for it.")
        self._control = ExitStack()  # for as long as this object lives
        if self._world == "on":
            self._control.enter_context(with_control(self.model, control))
        self.batch_size_per_gpu = int(batch_size)
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        if several:
            self.accelerator = accelerator

    @property
    def batch_size(self) -> int:
        return self.batch_size_per_gpu

    @property
    def device(self) -> torch.device:
        return self._device

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("TheWorld answers one turn. Take a task without rounds.")

    def _document(self, task: str, split: str, number: Any) -> Any:
        return self.task_dict[task][split][number]

    def _prompt(self, messages: list[dict[str, Any]]) -> Prompt:
        prompt = make_prompt(self.processor, self.processor.load_media(load_chat(messages)), world=self._world)
        if self._world == "on" and not prompt.items:
            raise UsageError("a document has no picture or clip, so no world tokens. Ask such a task with arm=off.")
        return prompt

    def _generate(self, chats: Sequence[tuple[list[dict[str, Any]], dict[str, Any], Any]]) -> list[GenerationResult]:
        """Answers to chats with their settings and cache keys, in order; equal settings are asked together."""
        results = []
        for _, run in groupby(chats, key=lambda chat: repr(chat[1])):
            for batch in _batches(list(run), self.batch_size):
                settings = batch[0][1]
                asker = Asker(
                    self.model,
                    self.processor,
                    method="generate",
                    max_new_tokens=int(settings.get("max_new_tokens") or _MAX_NEW_TOKENS),
                    decoding=decoding(settings),
                )
                prompts = [self._prompt(messages) for messages, _, _ in batch]
                for prompt, reply, chat in zip(prompts, asker.ask(prompts), batch, strict=True):
                    result = _result(prompt, reply, settings)
                    self.cache_hook.add_partial("generate_until", (chat[2], settings), result.text)
                    results.append(result)
        return results


class TheWorldChat(_TheWorld):
    """For tasks that give chats."""

    is_simple = False

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        chats = []
        for context, to_messages, settings, number, task, split in (request.args for request in requests):
            chats.append((from_chat(to_messages(self._document(task, split, number))), settings, context))
        return self._generate(chats)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("lmms-eval asks chat models for no likelihoods. Add --force_simple.")


class TheWorldSimple(_TheWorld):
    """For tasks that give a text and visuals beside it."""

    is_simple = True

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        chats = []
        for context, settings, to_visual, number, task, split in (request.args for request in requests):
            chats.append((from_visuals(context, to_visual(self._document(task, split, number))), settings, context))
        return self._generate(chats)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Sum of the log-probabilities of each continuation's tokens, without an end-of-turn, and whether it is what
        greedy decoding says."""
        asker, results = Asker(self.model, self.processor, method="likelihood"), []
        for batch in _batches([request.args for request in requests], self.batch_size):
            prompts, options = [], []
            for context, continuation, to_visual, number, task, split in batch:
                document = self._document(task, split, number)
                text = continuation(document) if isinstance(continuation, Callable) else continuation
                messages = from_visuals(context, to_visual(document))
                prompts.append(self._prompt(messages))
                [tokens] = choice_tokens(self.processor, messages, [text.strip()])
                options.append({text: tokens[:-1]})
            for reply, (text,) in zip(asker.ask(prompts, options), options, strict=True):
                results.append(((reply.likelihoods or {})[text], (reply.greedy or {})[text]))
        return results


def from_chat(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """lmms-eval's chat, whose media are all called ``url``, as ours.

    Raises:
        UsageError: there is sound in it, or a part of a clip.
    """
    return [{"role": turn["role"], "content": [_block(block) for block in turn["content"]]} for turn in messages]


def from_visuals(context: str, visuals: Sequence[Any] | None) -> list[dict[str, Any]]:
    """A user's turn: pictures and clips, then the text without marks for them."""
    blocks = []
    for visual in visuals or ():
        is_clip = isinstance(visual, str) and Path(visual).suffix.lower() in CLIPS
        kind = "video" if is_clip or isinstance(visual, list) else "image"
        blocks.append({"type": kind, kind: visual})
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": context.replace("<image>", "").strip()}]}]


def decoding(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's settings as those of ``generate``; a temperature of 0, or none, is greedy decoding."""
    beams = {"num_beams": int(settings["num_beams"])} if settings.get("num_beams") else {}
    if not settings.get("temperature"):
        return {"do_sample": False, **beams}
    sampling = {name: settings[name] for name in ("top_p", "top_k") if settings.get(name) is not None}
    return {"do_sample": True, "temperature": float(settings["temperature"]), **sampling, **beams}


def _block(block: dict[str, Any]) -> dict[str, Any]:
    kind = block["type"]
    if kind == "text":
        return {"type": "text", "text": block["text"]}
    if kind not in ("image", "video"):
        raise UsageError(f"a document has {kind}, and TheWorld sees pictures and clips. Take another task.")
    if block.get("start_time") is not None or block.get("end_time") is not None:
        raise UsageError("a document asks about a part of a clip. Cut the clip, or take another task.")
    return {"type": kind, kind: block["url"]}


def _result(prompt: Prompt, reply: Reply, settings: dict[str, Any]) -> GenerationResult:
    """The answer up to the first of the task's stops; an empty line is none, as lmms-eval's own models have it."""
    until = settings.get("until") or []
    text = reply.text
    for stop in [until] if isinstance(until, str) else until:
        if stop and stop != "\n\n":
            text = text.split(stop)[0]
    counts = TokenCounts(input_tokens=len(prompt.input_ids), output_tokens=reply.tokens)
    return GenerationResult(text=text.strip(), token_counts=counts)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
