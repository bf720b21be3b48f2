"""Predicted latents are those of diffusers' own pipeline at the same seed; without any nothing is loaded or changed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from diffusers.models.transformers import transformer_cosmos
from diffusers.pipelines.cosmos.pipeline_cosmos2_video2world import Cosmos2VideoToWorldPipeline
from safetensors.torch import load_file

from theworld_encoders import Encoder, EncoderError, load_encoder
from theworld_encoders.predictor import karras_sigmas
from theworld_encoders.prompt import PROMPT_FILE, PROMPT_KEY
from theworld_encoders.registry import encoder_class
from theworld_encoders.testing import TINY_FRAME_SIZE, check_encoder, make_tiny_cosmos_folder, make_tiny_dit_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return make_tiny_dit_folder(tmp_path_factory.mktemp("cosmos"))


def load(folder: Path, num_future_frames: int, **settings: Any) -> Encoder:
    settings |= {"frame_size": TINY_FRAME_SIZE, "num_future_frames": num_future_frames}
    return load_encoder("cosmos-predict2-vae", folder, **settings)


def clip(frames: int, items: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(items, frames, 3, TINY_FRAME_SIZE, TINY_FRAME_SIZE, generator=generator) * 2 - 1


class ModeVae(torch.nn.Module):
    """The pipeline samples the posterior, which draws from its generator; we take the mode. So it gets latents."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae, self.config, self.dtype = vae, vae.config, torch.float32
        self.temperal_downsample = vae.temperal_downsample

    def encode(self, video: torch.Tensor) -> Any:
        return SimpleNamespace(latents=self.vae.encode(video).latent_dist.mode())


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' way to make an array of a tensor
@pytest.mark.parametrize(("frames", "future", "steps", "seed"), [(1, 2, 4, 0), (9, 1, 6, 3)])
def test_predictions_are_the_pipelines(
    folder: Path, monkeypatch: pytest.MonkeyPatch, frames: int, future: int, steps: int, seed: int
) -> None:
    from diffusers import AutoencoderKLWan

    resize = torch.nn.functional.interpolate  # diffusers resizes the padding mask with torchvision, which is not here
    stub = SimpleNamespace(
        functional=SimpleNamespace(resize=lambda mask, size, interpolation: resize(mask, size, mode=interpolation)),
        InterpolationMode=SimpleNamespace(NEAREST="nearest"),
    )
    monkeypatch.setattr(transformer_cosmos, "transforms", stub, raising=False)
    pipeline = Cosmos2VideoToWorldPipeline(
        text_encoder=None,  # type: ignore
        tokenizer=None,  # type: ignore
        transformer=CosmosTransformer3DModel.from_pretrained(folder, subfolder="transformer"),
        vae=ModeVae(AutoencoderKLWan.from_pretrained(folder, subfolder="vae")),  # type: ignore
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=torch.nn.Identity(),  # type: ignore  # a guardrail that guards nothing
    )
    monkeypatch.setattr(Cosmos2VideoToWorldPipeline, "_execution_device", torch.device("cpu"))
    pipeline.set_progress_bar_config(disable=True)
    pixels = clip(frames)
    wanted = pipeline(
        video=pixels.add(1).div(2),  # it wants [0, 1]
        prompt_embeds=load_file(folder / PROMPT_FILE)[PROMPT_KEY][None],
        height=TINY_FRAME_SIZE,
        width=TINY_FRAME_SIZE,
        num_frames=frames + 4 * future,
        num_inference_steps=steps,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        return_dict=False,
    )[0]
    features = load(folder, future, denoising_steps=steps, seed=seed)(pixels)
    observed = load(folder, 0)(pixels)
    assert features.shape[1] == observed.shape[1] + future == wanted.shape[2]
    assert torch.equal(features[:, :-future], observed)
    torch.testing.assert_close(features[:, -future:], wanted.permute(0, 2, 3, 4, 1)[:, -future:], rtol=0, atol=1e-5)


def test_the_schedule_is_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002)
    scheduler.set_timesteps(sigmas=torch.linspace(0, 1, 35, dtype=torch.float64).tolist())
    assert torch.equal(karras_sigmas(35), scheduler.sigmas[:-1])


def test_contract(folder: Path) -> None:
    encoder = load(folder, 2)
    assert encoder.spec.grid(9, 48, 48) == (5, 6, 6)
    assert encoder.spec.most_frames(5) == 9
    check_encoder(encoder)
    together = encoder(clip(5, items=3))
    torch.testing.assert_close(encoder(clip(5, items=3)[1:2])[0], together[1])


def test_the_configuration_rebuilds_the_encoder(folder: Path) -> None:
    encoder = load(folder, 2, denoising_steps=3, seed=4)
    rebuilt = type(encoder).from_config(json.loads(json.dumps(encoder.config)), frame_size=TINY_FRAME_SIZE)
    rebuilt.reset_parameters()
    check_encoder(rebuilt)
    assert (rebuilt.spec, rebuilt.config) == (encoder.spec, encoder.config)
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt(clip(5)), encoder(clip(5)))


@pytest.mark.parametrize("change", [{"denoising_steps": 5}, {"seed": 1}])
def test_every_setting_changes_the_prediction(folder: Path, change: dict[str, Any]) -> None:
    before, after = load(folder, 1)(clip(5)), load(folder, 1, **change)(clip(5))
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_nothing_is_loaded_for_nothing(tmp_path: Path) -> None:
    bare = make_tiny_cosmos_folder(tmp_path)  # no transformer, no prompt
    encoder = load(bare, 0)
    assert "num_future_frames" not in encoder.config
    assert {key.partition(".")[0] for key in encoder.state_dict()} == {"encoder", "quant_conv"}
    with pytest.raises(EncoderError, match=r"has no transformer/config\.json"):
        load(bare, 1)


def test_published_defaults_have_the_published_size() -> None:
    with torch.device("meta"):
        encoder: Any = encoder_class("cosmos-predict2-vae").from_config({"num_future_frames": 3})
    assert encoder.spec.feature_frames(13) == 7
    assert round(sum(parameter.numel() for parameter in encoder.predictor.transformer.parameters()) / 1e6) == 1956


def test_dtype(folder: Path) -> None:
    features = load(folder, 2, dtype=torch.bfloat16)(clip(5).bfloat16())
    assert features.dtype == torch.bfloat16
    assert (features.float() - load(folder, 2)(clip(5))).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_future_frames": 0, "seed": 1}, "seed is for a predictor, and num_future_frames is 0"),
        ({"num_future_frames": -1}, "num_future_frames of the predictor is -1. Use at least 1"),
        ({"num_future_frames": 1, "denoising_steps": 1}, "denoising_steps of the predictor is 1. Use at least 2"),
        ({"num_future_frames": 1, "steps": 1}, "the predictor has no setting steps. Known settings: denoising_steps, "),
    ],
)
def test_impossible_settings_are_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load(folder, **settings)
