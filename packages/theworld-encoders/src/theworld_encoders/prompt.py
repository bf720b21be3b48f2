"""The embedding of the empty prompt, which diffusion transformers want beside every clip.

It is exported once, into the checkpoint's folder, so that no text encoder of many gigabytes is ever held beside one::

    python -m theworld_encoders.prompt FOLDER_OR_HUB_ID [REVISION]

That reads ``text_encoder/`` of the checkpoint and writes ``empty_prompt.safetensors`` next to it, for a hub id in its
local snapshot. It needs transformers, ``pip install "theworld-encoders[prompt]"``, but no tokenizer: to T5 an empty
prompt is its end token, then padding.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from theworld_encoders.checkpoint import find_component, find_root, load_exactly, read_config
from theworld_encoders.errors import EncoderError

PROMPT_FILE = "empty_prompt.safetensors"
PROMPT_KEY = "prompt_embeds"
PROMPT_TOKENS = 512
"""What the Cosmos and Wan pipelines pad a prompt to; the padding is zeros that the transformer does attend to."""


class EmptyPrompt(nn.Module):
    """The embedding as a weight of the encoder that uses it: so it is saved, moved and compared with the others.

    A module, not a parameter of the encoder: an offloaded weight is there only while its own module runs.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tokens, width))

    def reset_parameters(self) -> None:
        """Random, at unit scale."""
        nn.init.normal_(self.weight)

    def forward(self, items: int) -> Float[Tensor, "m l c"]:
        """The same for each of ``items`` clips."""
        return self.weight.expand(items, -1, -1)

    @classmethod
    def from_pretrained(cls, source: str | Path, subfolder: str, revision: str | None) -> "EmptyPrompt":
        """What was exported.

        Args:
            source, revision: the checkpoint's folder or hub id.
            subfolder: a component of it that is on this machine.

        Raises:
            EncoderError: it was never exported (the message has the command), or the file is damaged.
        """
        path = find_root(source, (subfolder,), revision) / PROMPT_FILE
        command = f"python -m theworld_encoders.prompt {source}{f' {revision}' if revision else ''}"
        if not path.is_file():
            raise EncoderError(f"{source} has no {PROMPT_FILE}, the empty prompt's embedding. Make it once: {command}")
        try:
            embedding = load_file(path)[PROMPT_KEY]
        except (SafetensorError, KeyError) as error:
            raise EncoderError(f"{path} holds no {PROMPT_KEY}: {error}. Make it again: {command}") from error
        prompt = cls(*embedding.shape)
        load_exactly(prompt, {"weight": embedding}, path)
        return prompt


@torch.no_grad()
def export_prompt(source: str | Path, revision: str | None = None) -> Path:
    """Embed the empty prompt as the Cosmos and Wan pipelines do, and write it into the checkpoint's folder.

    Returns:
        The file that was written.

    Raises:
        EncoderError: transformers is missing, or the checkpoint has no such text encoder.
    """
    root = find_root(source, ("text_encoder",), revision)
    folder = find_component(source, "text_encoder", revision)
    kind = read_config(folder, "t5", "umt5", key="model_type")["model_type"]
    try:
        if kind == "t5":
            from transformers.models.t5.modeling_t5 import T5EncoderModel as TextEncoder
        else:
            from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel as TextEncoder
    except ImportError as error:
        raise EncoderError(
            'exporting a prompt needs transformers. Install it: pip install "theworld-encoders[prompt]"'
        ) from error
    try:
        model = TextEncoder.from_pretrained(folder, dtype="auto").eval()
    except (OSError, SafetensorError) as error:
        raise EncoderError(f"{folder} has no readable weights: {error}. Fetch the checkpoint again.") from error
    config: Any = model.config
    tokens = torch.tensor([[config.eos_token_id] + [config.pad_token_id] * (PROMPT_TOKENS - 1)])
    mask = torch.tensor([[1] + [0] * (PROMPT_TOKENS - 1)])
    states = model(tokens, attention_mask=mask).last_hidden_state[0]
    save_file({PROMPT_KEY: (states * mask[0, :, None]).contiguous()}, root / PROMPT_FILE)
    return root / PROMPT_FILE


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m theworld_encoders.prompt FOLDER_OR_HUB_ID [REVISION]")
    try:
        export_prompt(*sys.argv[1:])
    except EncoderError as error:
        sys.exit(f"error: {error}")
