"""All three VAE encoders against diffusers' whole autoencoders and the code of its pipelines."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import jaxtyping
import numpy as np
import pytest
import torch
from diffusers.video_processor import VideoProcessor
from PIL import Image
from safetensors.torch import load_file

from theworld_encoders import Encoder, EncoderError, load_encoder, preprocess
from theworld_encoders.registry import encoder_class
from theworld_encoders.testing import (
    TINY_FRAME_SIZE,
    check_encoder,
    make_tiny_cosmos1_folder,
    make_tiny_cosmos_folder,
    make_tiny_wan22_folder,
)
from theworld_encoders.wan_vae import WanVae

MAKERS = {
    "cosmos-predict2-vae": make_tiny_cosmos_folder,
    "cosmos1-tokenizer": make_tiny_cosmos1_folder,
    "wan22-vae": make_tiny_wan22_folder,
}
MILLIONS = {"cosmos-predict2-vae": (53.6, 126.9), "cosmos1-tokenizer": (42.9, 105.7), "wan22-vae": (149.6, 704.7)}
"""Parameters of the encoder half and of the whole at the published size."""


class Pair(NamedTuple):
    folder: Path
    encoder: Encoder
    vae: Any
    """diffusers' whole autoencoder of the same folder."""

    def standard(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the pipeline makes of ``[m, 3, t, h, w]``: mode, means and deviations."""
        with torch.no_grad():
            mode = self.vae.encode(pixels).latent_dist.mode()
        mean, std = self.statistics(mode)
        return (mode - mean) / std

    def statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        named = (torch.tensor(self.vae.config[key]) for key in ("latents_mean", "latents_std"))
        mean, std = (value.view(1, like.shape[1], -1, 1, 1)[:, :, : like.shape[2]] for value in named)
        return mean, std


def load_pair(name: str, folder: Path) -> Pair:
    MAKERS[name](folder)
    encoder = load_encoder(name, folder, frame_size=TINY_FRAME_SIZE)
    whole = getattr(diffusers, encoder_class(name).autoencoder)  # type: ignore[attr-defined]
    return Pair(folder, encoder, whole.from_pretrained(folder, subfolder="vae"))


@pytest.fixture(scope="module", params=sorted(MAKERS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(request.param, tmp_path_factory.mktemp(request.param))


def photograph(seed: int, width: int = 117, height: int = 83) -> Image.Image:
    """A picture with a photograph's spectrum, colours that go together, sharp edges and the grain of a JPEG."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])[..., None] + 1e-2
    noise = np.fft.fft2(draw.normal(size=(height, width, 3)), axes=(0, 1)) / frequency
    plain = np.fft.ifft2(noise, axes=(0, 1)).real @ (np.eye(3) + 1)
    plain = (plain - plain.min()) / np.ptp(plain)
    plain[20:60, 30:80] *= draw.random(3)
    return Image.fromarray((plain * 255).astype(np.uint8))


def clip(pair: Pair, length: int, items: int = 1) -> torch.Tensor:
    frames = [[photograph(17 * item + step) for step in range(length)] for item in range(items)]
    return torch.stack([preprocess(item, pair.encoder.spec) for item in frames])


def test_pixels_are_those_of_diffusers_video_processor(pair: Pair) -> None:
    spec, side = pair.encoder.spec, TINY_FRAME_SIZE
    processor = VideoProcessor(vae_scale_factor=spec.spatial_stride)
    torch.testing.assert_close(
        preprocess(photograph(0), spec), processor.preprocess(photograph(0), side, side), rtol=0, atol=1e-6
    )
    frames = [photograph(step) for step in range(spec.fit_frames(2))]
    wanted = processor.preprocess_video(frames, side, side)[0].transpose(0, 1)
    torch.testing.assert_close(preprocess(frames, spec), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_latents_are_those_of_the_pipeline(pair: Pair, steps: int) -> None:
    pixels = clip(pair, 1 + steps * pair.encoder.spec.temporal_stride, items=2)
    wanted = pair.standard(pixels.transpose(1, 2)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(pair.encoder(pixels), wanted, rtol=0, atol=1e-5)


def test_features_decode_to_what_the_autoencoder_decodes(pair: Pair) -> None:
    pixels = clip(pair, 1 + pair.encoder.spec.temporal_stride)
    features = pair.encoder(pixels).permute(0, 4, 1, 2, 3)
    mean, std = pair.statistics(features)
    with torch.no_grad():
        ours = pair.vae.decode(features * std + mean).sample
        own = pair.vae.decode(pair.vae.encode(pixels.transpose(1, 2)).latent_dist.mode()).sample
    torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)  # pixels up to 5


def test_contract(pair: Pair) -> None:
    check_encoder(pair.encoder)


def test_features_depend_on_no_other_item(pair: Pair) -> None:
    pixels = clip(pair, 1 + pair.encoder.spec.temporal_stride, items=3)
    together = pair.encoder(pixels)
    torch.testing.assert_close(pair.encoder(pixels.flip(0)).flip(0), together, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([pair.encoder(item[None]) for item in pixels]), together, rtol=0, atol=1e-5)


def test_threads_may_share_an_encoder(pair: Pair) -> None:
    clips = [clip(pair, 1 + 2 * pair.encoder.spec.temporal_stride) * (1 - 0.1 * index) for index in range(4)]
    alone = [pair.encoder(item) for item in clips]
    shared: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda index=index: shared.update({index: pair.encoder(clips[index])}))
        for index in range(len(clips))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(shared[index], alone[index]) for index in range(len(clips)))


def test_only_the_encoder_half_is_held_under_its_original_keys(pair: Pair) -> None:
    published = load_file(pair.folder / "vae/diffusion_pytorch_model.safetensors")
    held = pair.encoder.state_dict()
    assert set(held) == {key for key in published if key.startswith(("encoder.", "quant_conv."))}
    assert all(torch.equal(held[key], published[key]) and held[key].is_contiguous() for key in held)


def count(module: torch.nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 1)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_the_published_size(name: str) -> None:
    with torch.device("meta"):
        encoder = encoder_class(name).from_config({})
        whole = getattr(diffusers, encoder_class(name).autoencoder)(**encoder.config)  # type: ignore[attr-defined]
    assert (count(encoder), count(whole)) == MILLIONS[name]
    assert encoder.spec == encoder_class(name).published


def test_everything_can_be_filled_from_the_configuration_alone(pair: Pair) -> None:
    with torch.device("meta"):
        empty = type(pair.encoder).from_config(pair.encoder.config, frame_size=TINY_FRAME_SIZE)
    rebuilt = empty.to_empty(device="cpu")
    for tensor in (*rebuilt.parameters(), *rebuilt.buffers()):
        tensor.data.zero_()
    rebuilt.reset_parameters()
    for buffer, published in zip(rebuilt.buffers(), pair.encoder.buffers(), strict=True):
        assert torch.equal(buffer, published)
    check_encoder(rebuilt)
    rebuilt.load_state_dict(pair.encoder.state_dict())
    assert torch.equal(rebuilt(clip(pair, 1)), pair.encoder(clip(pair, 1)))


def test_bfloat16(pair: Pair) -> None:
    half = load_encoder(pair.encoder.spec.name, pair.folder, frame_size=TINY_FRAME_SIZE, dtype=torch.bfloat16)
    for length in (1, 1 + pair.encoder.spec.temporal_stride):
        features = half(clip(pair, length).bfloat16())
        assert features.dtype == torch.bfloat16
        torch.testing.assert_close(features.float(), pair.encoder(clip(pair, length)), rtol=0.1, atol=0.15)


@pytest.fixture
def traceable() -> Iterator[None]:
    """Without the tests' own checks of shapes, which dynamo cannot look into."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo warns itself
def test_compiled(pair: Pair, traceable: None) -> None:
    # Each debugging backend has a bug that the other one and inductor have not: see docs/upstream-bugs.md.
    backend = "eager" if isinstance(pair.encoder, WanVae) else "aot_eager"
    compiled: Callable = torch.compile(pair.encoder.encode, backend=backend, fullgraph=True, dynamic=False)
    for length in (1, 1 + pair.encoder.spec.temporal_stride):
        pixels = clip(pair, length)
        with torch.no_grad():
            torch.testing.assert_close(compiled(pixels), pair.encoder(pixels), rtol=0, atol=1e-5)


def test_a_clip_beyond_the_statistics_is_refused(tmp_path: Path) -> None:
    encoder = load_pair("cosmos1-tokenizer", tmp_path).encoder
    with pytest.raises(EncoderError, match=r"means for 121 frames, and the clip has 129\. Give at most 121"):
        encoder(torch.zeros(1, 129, 3, 16, 16))


def test_statistics_by_latent_frame(tmp_path: Path) -> None:
    pair = load_pair("cosmos1-tokenizer", tmp_path)
    config = {**pair.encoder.config, "latents_mean": torch.linspace(-1, 1, 256).tolist()}
    shifted = type(pair.encoder).from_config(config, frame_size=TINY_FRAME_SIZE)
    shifted.load_state_dict(pair.encoder.state_dict())
    pair.vae.register_to_config(latents_mean=config["latents_mean"])
    pixels = clip(pair, 17)
    torch.testing.assert_close(
        shifted(pixels), pair.standard(pixels.transpose(1, 2)).permute(0, 2, 3, 4, 1), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "other"), [("cosmos-predict2-vae", "wan22-vae"), ("wan22-vae", "cosmos-predict2-vae")]
)
def test_one_wan_vae_is_not_the_other(name: str, other: str, tmp_path: Path) -> None:
    MAKERS[other](tmp_path)
    with pytest.raises(EncoderError, match=r"cannot use patch_size .* wan22-vae for a Wan 2\.2 VAE"):
        load_encoder(name, tmp_path)


def test_diffusers_may_first_be_imported_for_a_model_without_memory(tmp_path: Path) -> None:
    """It keeps Cosmos 1's wavelets in a module, made when that is imported: on whatever device is the default then."""
    code = f"""
import torch
from theworld_encoders import load_encoder
from theworld_encoders.registry import encoder_class

with torch.device("meta"):
    encoder_class("cosmos1-tokenizer").from_config({{}})
encoder = load_encoder("cosmos1-tokenizer", {str(make_tiny_cosmos1_folder(tmp_path))!r}, frame_size=48)
assert encoder(torch.zeros(1, 9, 3, 48, 48)).shape == (1, 2, 6, 6, 16)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
