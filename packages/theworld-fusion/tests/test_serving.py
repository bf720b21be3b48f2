"""`transformers serve`, which never imports us by itself, answers about pictures and clips from a saved folder."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from openai import DefaultHttpxClient, OpenAI
from PIL import Image

from theworld_encoders import read_video
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode, random_picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
NEW_TOKENS = 8
WORLD_SPAN = 36 + 2
"""World tokens of a picture at toy size, and their two boundaries."""


@pytest.fixture(scope="module")
def talkative(build: Callable[..., Pair]) -> Pair:
    """A pair whose greedy answers differ with their input: a random model repeats one token, whatever it sees."""
    model, processor = build()
    tokens = processor.tokenizer.get_vocab()
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.suppress_tokens = [index for text, index in tokens.items() if text.startswith("<")]
    return model, processor


@dataclass
class Server:
    """A running server, and the model that it serves in this process too."""

    client: OpenAI
    folder: Path
    pair: Pair

    def request(self, *items: Image.Image | Path, **kwargs: Any) -> Any:
        """Ask the server about pictures, which are sent, and films, which lie on its disk."""
        kinds = ["video_url" if isinstance(item, Path) else "image_url" for item in items]
        urls = [str(item) if isinstance(item, Path) else data_url(item) for item in items]
        blocks = [{"type": kind, kind: {"url": url}} for kind, url in zip(kinds, urls, strict=True)]
        content = [*blocks, {"type": "text", "text": "What happens next?"}]
        return self.client.chat.completions.create(
            model=str(self.folder),
            messages=[{"role": "user", "content": content}],  # pyright: ignore[reportArgumentType]
            max_tokens=NEW_TOKENS,
            temperature=0,
            **kwargs,
        )

    def here(self, *items: Image.Image | list[Image.Image], **kwargs: Any) -> tuple[str, int]:
        """The answer without a server, and the length of its prompt."""
        model, processor = self.pair
        inputs = encode(processor, chat(*items), **kwargs)  # pyright: ignore[reportArgumentType]
        ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
        length = inputs["input_ids"].shape[1]
        return processor.decode(ids[length:], skip_special_tokens=True), length


def data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(process: subprocess.Popen, port: int, log: Path, seconds: float = 180) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows this machine's loopback
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with direct.open(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no server after {seconds} s, or it ended with {process.returncode}:\n{log.read_text()}")


@pytest.fixture(scope="module")
def server(talkative: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, log, port = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("log") / "server.log", free_port()
    for part in talkative:
        part.save_pretrained(folder)
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--trust-remote-code"]
    where = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder.with_name("modules"))}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *where], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until_healthy(process, port, log)
        base, direct = f"http://127.0.0.1:{port}/v1", DefaultHttpxClient(trust_env=False)
        with OpenAI(base_url=base, api_key="none", max_retries=0, http_client=direct) as client:
            yield Server(client, folder, talkative)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.parametrize("seeds", [[], [0], [1], [0, 1]])
def test_the_answer_is_that_of_this_process(server: Server, seeds: list[int]) -> None:
    pictures = [random_picture(seed) for seed in seeds]
    answer, length = server.here(*pictures)
    response = server.request(*pictures)
    assert response.choices[0].message.content == answer
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (length, NEW_TOKENS)


def test_world_tokens_are_in_the_prompt_and_change_the_answer(server: Server) -> None:
    picture = random_picture(0)
    answers = {server.here(picture)[0], server.here(picture, world="off")[0], server.here(random_picture(1))[0]}
    assert len(answers) == 3  # or the next lines, and the test above, would show little
    on = server.request(picture)
    off = server.request(picture, extra_body={"chat_template_kwargs": {"processor_kwargs": {"world": "off"}}})
    assert on.usage.prompt_tokens - off.usage.prompt_tokens == WORLD_SPAN
    assert off.choices[0].message.content == server.here(picture, world="off")[0]
    assert off.choices[0].message.content != on.choices[0].message.content


def test_streaming(server: Server) -> None:
    picture = random_picture(0)
    chunks = list(server.request(picture, stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    answer, length = server.here(picture)
    assert "".join(pieces) == answer
    assert len(pieces) > 1
    assert chunks[-1].usage.prompt_tokens == length


def test_a_film_on_the_servers_disk(server: Server, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = read_video(film, server.pair[1].world_num_frames).frames
    answer, length = server.here(frames)
    response = server.request(film)
    assert (response.choices[0].message.content, response.usage.prompt_tokens) == (answer, length)
    assert answer != server.here(frames[-1])[0]
