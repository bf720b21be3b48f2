"""Language models that read answers for a judge: behind an endpoint, or in this process."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from huggingface_hub.utils import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file

from theworld_encoders.errors import first_line
from theworld_train.data.example import digest
from theworld_train.errors import UsageError
from theworld_train.evaluate.facts import weights_digest
from theworld_train.evaluate.judge import SYSTEM, JudgeError, JudgeUnreachable

OPENAI = "https://api.openai.com/v1"
_LONGEST_REPLY = 32
"""Tokens; the longest reply that is asked for has half as many."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model behind an endpoint that speaks OpenAI's chat completions.

    Attributes:
        model: its name there.
        base_url: the endpoint, without ``/chat/completions``.
        key_variable: environment variable of the key, which is read when it is needed and written nowhere; an endpoint
            other than OpenAI's may do without.
        timeout: seconds for one try.
        tries: of one request; only failures that may pass (429, 5xx, no connection) are tried again.
    """

    model: str
    base_url: str = OPENAI
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    tries: int = 5
    longest_wait: float = field(default=30.0, repr=False)

    @property
    def identity(self) -> str:
        """Models of one name behind two endpoints may be two."""
        return f"{self.model} {self.base_url.rstrip('/')}"

    def read(self, prompt: str) -> str:
        """What it replies.

        Raises:
            JudgeUnreachable: it does not, or says no.
            UsageError: there is no key for OpenAI's endpoint.
        """
        key = os.environ.get(self.key_variable, "")
        if not key and self.base_url.rstrip("/") == OPENAI:
            raise UsageError(
                f"{self.key_variable} is not set. Set it to the key of {OPENAI}, or give another endpoint."
            )
        body = {
            "model": self.model,
            "temperature": 0,
            "response_format": {"type": "json_object"},
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
        }
        tries = Retrying(
            stop=stop_after_attempt(self.tries),
            wait=wait_exponential_jitter(max=self.longest_wait),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            response = tries(self._post, body, {"Authorization": f"Bearer {key}"} if key else {})
            content = response.json()["choices"][0]["message"]["content"]
        except httpx.HTTPStatusError as error:
            said = " ".join(error.response.text.split())[:200]
            raise JudgeUnreachable(
                _without(key, f"{self.base_url} says {error.response.status_code}: {said}")
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise JudgeUnreachable(_without(key, f"{self.base_url} cannot be reached ({error})")) from None
        except (ValueError, LookupError, TypeError) as error:
            raise JudgeUnreachable(f"{self.base_url} gave no chat completion ({type(error).__name__})") from None
        return content if isinstance(content, str) else ""

    def _post(self, body: dict[str, Any], headers: dict[str, str]) -> Any:
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=self.timeout).raise_for_status()


class LocalModel:
    """A language model here, greedily decoded, one prompt at a time: a reply depends on its prompt alone.

    Args:
        source: folder or hub id of a model with a chat template.
        device: where it computes.

    Raises:
        UsageError: there is no such model, or it has no chat template.
    """

    def __init__(self, source: str, *, device: torch.device) -> None:
        load: Any = AutoModelForCausalLM.from_pretrained
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self._model = load(source, dtype="auto").to(device).eval()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{source} is no language model here, and the hub did not give one ({first_line(error)}). Check the "
                "path or name, and for a gated model your token; of a model behind an endpoint, give --endpoint too."
            ) from error
        self._tokenizer.chat_template = self._tokenizer.chat_template or _processors_template(source)
        if self._tokenizer.chat_template is None:
            raise UsageError(f"{source} has no chat template, so it cannot be asked. Give one that was tuned to chat.")
        self.identity = digest(weights_digest(self._model), self._tokenizer.chat_template)
        self._lock = Lock()

    @torch.no_grad()
    def read(self, prompt: str) -> str:
        """What it replies.

        Raises:
            JudgeError: the model fails at this prompt: it may be too long.
        """
        chat = [{"role": "user", "content": f"{SYSTEM}\n\n{prompt}"}]  # not every template has a system's turn
        inputs = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(self._model.device)
        try:
            with self._lock:
                ids = self._model.generate(**inputs, do_sample=False, max_new_tokens=_LONGEST_REPLY)
        except (RuntimeError, ValueError, IndexError) as error:
            raise JudgeError(f"the judge failed ({first_line(error)})") from error
        return self._tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def _processors_template(source: str) -> Any:
    """Of a VLM, where the tokenizer has none."""
    file = cached_file(source, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8")).get("chat_template")


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def _without(key: str, text: str) -> str:
    return text.replace(key, "[key]") if key else text
