"""A Gemma 3 tokenizer at toy size: same kind, special tokens and turn markers, trained here on a few own sentences."""

import json

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GemmaTokenizer

from theworld_tokens import Gemma3Token

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- set role = "model" if message["role"] == "assistant" else message["role"] -%}
  {{- "<start_of_turn>" + role + "\\n" -}}
  {%- if message["content"] is string -%}
    {{- message["content"] | trim -}}
  {%- else -%}
    {%- for block in message["content"] -%}
      {%- if block["type"] == "image" -%}
        {{- "<start_of_image>" -}}
      {%- elif block["type"] == "text" -%}
        {{- block["text"] | trim -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- "<end_of_turn>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<start_of_turn>model\\n" -}}
{%- endif -%}
"""
"""Gemma's turn format in our own words: one ``<start_of_image>`` for each image block, the model's role is "model"."""

_SENTENCES = (
    "Which way is it moving? It is moving to the left, to the right, up or down.",
    "Which corner will it be closer to next? The top left, the top right, the bottom left or the bottom right.",
    "Which is faster, the red one or the blue one? The green one is slower than the yellow one.",
    "Will they hit each other? Yes, they will. No, they will not.",
    "What colour is it? It is red, green, blue or yellow.",
    "How many objects are there? There are one, two or three of them.",
    "What shape is it? It is a circle, a square or a triangle.",
    "What happens next? The ball rolls on and falls off the table.",
    "What do you see? A building with a roof, a flower, a bicycle, people in the street, a cat and a cup of coffee.",
    "You are a helpful assistant. Describe this picture, please. Look at the video and answer in one word.",
)

_FIRST_WORDS = (
    *("user", "model", "system", "left", "right", "up", "down", "top left", "bottom right", "yes", "no", "one", "two"),
    *("three", "red", "green", "blue", "yellow", "circle", "square", "triangle"),
)
"""What a turn begins with: these become pieces without the space before them."""

_NUM_PIECES = 400
"""Word pieces that are learnt on top of the 256 bytes."""


def make_tiny_tokenizer() -> GemmaTokenizer:
    """Train the tokenizer. Special tokens up to the turn markers have their published ids; image tokens are last."""
    named = {int(token): token.text for token in Gemma3Token if token < 1000}
    named |= {3: "<unk>", 4: "<mask>"}
    head = [named.get(index, f"<unused{index - 5}>") for index in range(Gemma3Token.END_OF_TURN + 1)]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces, merges = _train_pieces()
    image_tokens = (Gemma3Token.START_OF_IMAGE, Gemma3Token.END_OF_IMAGE, Gemma3Token.IMAGE_SOFT)
    texts = [*head, *alphabet, *pieces, *(token.text for token in image_tokens)]
    boi, eoi, soft = (token.text for token in image_tokens)
    tokenizer = GemmaTokenizer(
        vocab={text: index for index, text in enumerate(texts)},
        merges=merges,  # pyright: ignore[reportArgumentType]
        add_bos_token=True,
        extra_special_tokens={"boi_token": boi, "eoi_token": eoi, "image_token": soft},
        model_max_length=131_072,
    )
    tokenizer.add_tokens(head[5:], special_tokens=True)  # turn markers and unused tokens, else BPE would split them
    return tokenizer


def _train_pieces() -> tuple[list[str], list[tuple[str, str]]]:
    """Byte-pair pieces and merges; no merge crosses a word or a line, as Gemma's do not."""
    trainee = Tokenizer(BPE())
    trainee.normalizer = normalizers.Replace(" ", "▁")  # pyright: ignore[reportAttributeAccessIssue]
    trainee.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?\w+|[^\w▁]|▁"), behavior="isolated")  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(vocab_size=_NUM_PIECES, show_progress=False, initial_alphabet=["▁", "\n"])
    trainee.train_from_iterator((*_SENTENCES, *_FIRST_WORDS * 2), trainer)
    learnt = trainee.get_vocab()
    model = json.loads(trainee.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]] + [("\n", "\n")]
    return [*sorted(learnt, key=lambda text: learnt[text]), "\n\n"], merges
