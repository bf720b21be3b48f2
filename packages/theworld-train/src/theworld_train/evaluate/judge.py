"""A language model as a second reader of answers, to check the rules with; no score of a report comes from it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.utils import httpx
from pydantic import BaseModel, ConfigDict, ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from theworld_train.data.example import digest
from theworld_train.errors import UsageError
from theworld_train.evaluate.task import Item, Score, Task
from theworld_train.evaluate.tasks.rows import text_of

OPENAI = "https://api.openai.com/v1"
_SYSTEM = (
    "You read answers to questions about pictures. You do not see the picture. Reply with one JSON object, no more."
)
_READ = {
    "length": 'Which length does the response give, in metres? Reply {"metres": number}, or {"metres": null} if it '
    "gives none, or none in a unit of length.",
    "clock": 'Which hour of the clock does the response give as direction? Reply {"hour": number}, or {"hour": null} '
    "if it gives none.",
    "verdict": 'Does the response say the same as the correct answer? Reply {"verdict": "right"}, {"verdict": "wrong"} '
    'or {"verdict": "none"} if it gives no answer, several, or refuses.',
}


class JudgeError(RuntimeError):
    """The judge gave no usable reply: an error of the judging, not a wrong answer."""


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Length(_Reply):
    metres: float | None


class _Clock(_Reply):
    hour: float | None


class _Verdict(_Reply):
    verdict: Literal["right", "wrong", "none"]


_REPLIES: Mapping[str, type[_Reply]] = {"length": _Length, "clock": _Clock, "verdict": _Verdict}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model behind an endpoint that speaks OpenAI's chat completions.

    Attributes:
        model: its name there.
        cache: folder of replies by the digest of model and prompt; what stands there is not asked again.
        base_url: the endpoint, without ``/chat/completions``.
        key_variable: environment variable of the key, which is read when it is needed and written nowhere; an endpoint
            other than OpenAI's may do without.
        timeout: seconds for one try.
        tries: of one request; only failures that may pass (429, 5xx, no connection) are tried again.
    """

    model: str
    cache: Path
    base_url: str = OPENAI
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    tries: int = 5
    longest_wait: float = field(default=30.0, repr=False)

    def score(self, task: Task, item: Item, answer: str) -> Score:
        """What the answer is worth by the judge's reading; lengths and hours are measured as the task measures them.

        Raises:
            JudgeError: it cannot be reached, or its reply is not the JSON that was asked for.
            UsageError: there is no key for OpenAI's endpoint.
        """
        reader = item.facts.get("reader")
        kind = reader if reader in ("length", "clock") else "verdict"
        reply = self._ask(kind, _prompt(kind, item, answer))
        match reply:
            case _Length(metres=float(metres)):
                return task.score(item, f"{metres:f} m")
            case _Clock(hour=float(hour)):
                return task.score(item, f"{int(hour)}:{round(hour % 1 * 60):02d}")
            case _Verdict(verdict="right"):
                return Score(value=1.0, parsed="right")
            case _Verdict(verdict="wrong"):
                return Score(value=0.0, parsed="wrong")
        return Score(value=None)

    def _ask(self, kind: str, prompt: str) -> Any:
        file = self.cache / f"{digest(self.model, _SYSTEM, prompt)}.json"
        if not file.exists():
            reply = _checked(kind, self._request(prompt))
            self.cache.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}.{id(reply)}.partial")
            partial.write_text(reply.model_dump_json(), encoding="utf-8")
            partial.replace(file)
            return reply
        return _checked(kind, file.read_text(encoding="utf-8"))

    def _request(self, prompt: str) -> str:
        key = os.environ.get(self.key_variable, "")
        if not key and self.base_url == OPENAI:
            raise UsageError(
                f"{self.key_variable} is not set. Set it to the key of {OPENAI}, or give another base_url."
            )
        body = {
            "model": self.model,
            "temperature": 0,
            "response_format": {"type": "json_object"},
            "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": prompt}],
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
            raise JudgeError(_without(key, f"{self.base_url} says {error.response.status_code}: {said}")) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise JudgeError(_without(key, f"{self.base_url} cannot be reached ({error})")) from None
        except (ValueError, LookupError, TypeError) as error:
            raise JudgeError(f"{self.base_url} gave no chat completion ({type(error).__name__})") from None
        return content if isinstance(content, str) else ""

    def _post(self, body: dict[str, Any], headers: dict[str, str]) -> Any:
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=self.timeout).raise_for_status()


def _prompt(kind: str, item: Item, answer: str) -> str:
    """The answer stands last, marked off: what it says is to be read, not obeyed."""
    wanted = "" if kind != "verdict" else f"Correct answer: {item.answer}\n"
    return f"{_READ[kind]}\n\nQuestion: {text_of(item)}\n{wanted}Response, between the lines:\n---\n{answer}\n---"


def _checked(kind: str, content: str) -> Any:
    try:
        return _REPLIES[kind].model_validate_json(content)
    except ValidationError:
        raise JudgeError(f"the judge's reply is not the JSON that was asked for: {content[:200]!r}") from None


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def _without(key: str, text: str) -> str:
    return text.replace(key, "[key]") if key else text
