"""Features equal what a hook on diffusers' whole transformer sees; nothing above the block is held or read."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.models.transformers import transformer_cosmos
from safetensors.torch import load_file, save_file

from theworld_encoders import EncoderError, load_encoder
from theworld_encoders.dit import DiffusionEncoder
from theworld_encoders.prompt import PROMPT_FILE, PROMPT_KEY
from theworld_encoders.registry import encoder_class
from theworld_encoders.testing import TINY_FRAME_SIZE, check_encoder, make_tiny_dit_folder

CLASSES = {"cosmos-predict2-dit": "CosmosTransformer3DModel", "wan21-dit": "WanTransformer3DModel"}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name; not to be changed."""
    return {name: make_tiny_dit_folder(tmp_path_factory.mktemp(name), kind) for name, kind in CLASSES.items()}


@pytest.fixture(params=CLASSES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def load(name: str, folder: Path, **settings: Any) -> DiffusionEncoder:
    return load_encoder(name, folder, frame_size=TINY_FRAME_SIZE, **{"block": 3, **settings})  # type: ignore


def clip(frames: int, items: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(items, frames, 3, TINY_FRAME_SIZE, TINY_FRAME_SIZE, generator=generator) * 2 - 1


def hooked(block: torch.nn.Module, call: Any) -> torch.Tensor:
    """What ``block`` gives while ``call`` runs."""
    seen = []
    handle = block.register_forward_hook(lambda *values: seen.append(values[-1]))
    with torch.no_grad():
        call()
    handle.remove()
    return seen[0]


def latents_and_noise(folder: Path, pixels: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    latents = load_encoder("cosmos-predict2-vae", folder, frame_size=TINY_FRAME_SIZE)(pixels).permute(0, 4, 1, 2, 3)
    noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed))
    return latents, noise.expand_as(latents)


@pytest.mark.parametrize(("frames", "block", "level", "given"), [(1, 3, 0.3, 0), (9, 1, 0.0, 1), (9, 4, 0.75, 2)])
def test_cosmos_states_are_those_of_the_whole_transformer(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, frames: int, block: int, level: float, given: int
) -> None:
    resize = torch.nn.functional.interpolate  # diffusers resizes the padding mask with torchvision, which is not here
    stub = SimpleNamespace(
        functional=SimpleNamespace(resize=lambda mask, size, interpolation: resize(mask, size, mode=interpolation)),
        InterpolationMode=SimpleNamespace(NEAREST="nearest"),
    )
    monkeypatch.setattr(transformer_cosmos, "transforms", stub, raising=False)
    folder, pixels = folders["cosmos-predict2-dit"], clip(frames)
    latents, noise = latents_and_noise(folder, pixels)
    whole = CosmosTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    prompt = load_file(folder / PROMPT_FILE)[PROMPT_KEY].expand(2, -1, -1)
    # As the pipeline's loop has it: noise of scale sigma is added, c_in scales, given frames replace what they mark.
    sigma = torch.tensor(level / (1 - level))
    current_t = sigma / (sigma + 1)
    indicator = torch.zeros(1, 1, latents.shape[2], 1, 1)
    indicator[:, :, :given] = 1
    noisy = indicator * latents + (1 - indicator) * (latents + sigma * noise) * (1 - current_t)
    timestep = indicator * (1e-4 / (1e-4 + 1)) + (1 - indicator) * current_t
    wanted = hooked(
        whole.transformer_blocks[block - 1],
        lambda: whole(
            hidden_states=noisy,
            timestep=timestep.expand(2, -1, -1, -1, -1),
            encoder_hidden_states=prompt,
            fps=16,
            condition_mask=indicator * torch.ones_like(latents[:, :1]),
            padding_mask=torch.zeros(1, 1, TINY_FRAME_SIZE, TINY_FRAME_SIZE),
        ),
    )
    encoder = load("cosmos-predict2-dit", folder, block=block, noise_level=level, condition_frames=given)
    features = encoder(pixels)
    assert features.shape == (2, latents.shape[2], 3, 3, 32)
    torch.testing.assert_close(features.flatten(1, 3), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("frames", "block", "step"), [(1, 3, 7), (9, 1, 9), (9, 4, 2)])
def test_wan_states_are_those_of_the_whole_transformer(
    folders: dict[str, Path], frames: int, block: int, step: int
) -> None:
    folder, pixels = folders["wan21-dit"], clip(frames)
    latents, noise = latents_and_noise(folder, pixels, seed=5)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)  # what WanPipeline takes
    scheduler.set_timesteps(10)
    timestep, level = scheduler.timesteps[step : step + 1], float(scheduler.sigmas[step])
    noisy = scheduler.scale_noise(latents, timestep, noise)
    whole = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    prompt = load_file(folder / PROMPT_FILE)[PROMPT_KEY].expand(2, -1, -1)
    wanted = hooked(whole.blocks[block - 1], lambda: whole(noisy, timestep.expand(2), prompt))
    features = load("wan21-dit", folder, block=block, noise_level=level, seed=5)(pixels)
    torch.testing.assert_close(features.flatten(1, 3), wanted, rtol=0, atol=1e-5)


def test_contract(folders: dict[str, Path], name: str) -> None:
    check_encoder(load(name, folders[name]))


def test_the_configuration_rebuilds_the_encoder(folders: dict[str, Path], name: str) -> None:
    encoder = load(name, folders[name], block=2, noise_level=0.5, seed=7)
    config = json.loads(json.dumps(encoder.config))
    rebuilt = type(encoder).from_config(config, frame_size=TINY_FRAME_SIZE)
    check_encoder(rebuilt)
    rebuilt.reset_parameters()
    check_encoder(rebuilt)
    assert (rebuilt.spec, rebuilt.config) == (encoder.spec, encoder.config)
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt(clip(5)), encoder(clip(5)))


@pytest.mark.parametrize("change", [{"block": 2}, {"noise_level": 0.6}, {"seed": 1}])
def test_every_setting_changes_the_features(folders: dict[str, Path], name: str, change: dict[str, Any]) -> None:
    assert not torch.allclose(load(name, folders[name], **change)(clip(5)), load(name, folders[name])(clip(5)))


def test_noise_depends_on_no_neighbour(folders: dict[str, Path], name: str) -> None:
    encoder, pixels = load(name, folders[name]), clip(5, items=3)
    torch.manual_seed(1)
    together = encoder(pixels)
    torch.manual_seed(2)
    for index in (2, 0, 1):
        torch.testing.assert_close(encoder(pixels[index : index + 1])[0], together[index])


@pytest.mark.parametrize(("name", "millions"), [("cosmos-predict2-dit", 1263), ("wan21-dit", 954)])
def test_published_defaults(name: str, millions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("theworld_encoders.checkpoint.snapshot_download", None)  # a constructor downloads nothing
    with torch.device("meta"):
        encoder: Any = encoder_class(name).from_config({})
    assert encoder.spec == encoder.published
    assert encoder.spec.num_tokens(1, 448, 448) == 784
    assert (encoder.config["block"], encoder.config["noise_level"]) == ({"wan21-dit": 20}.get(name, 18), 0.3)
    # of 1,956 million in all 28 blocks and the head, and 1,419 million in all 30
    assert round(sum(parameter.numel() for parameter in encoder.transformer.parameters()) / 1e6) == millions


def test_dtype(folders: dict[str, Path], name: str) -> None:
    half = load(name, folders[name], dtype=torch.bfloat16)
    features = half(clip(5).bfloat16())
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(features.float(), load(name, folders[name])(clip(5)), rtol=0.1, atol=0.2)


def test_gradients_reach_everything_when_asked(folders: dict[str, Path], name: str) -> None:
    encoder = load(name, folders[name])
    assert not encoder(clip(1)).requires_grad
    encoder.requires_grad_(True)
    encoder(clip(5)).sum().backward()
    assert [key for key, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_blocks_above_are_neither_held_nor_read(name: str, tmp_path: Path) -> None:
    folder = make_tiny_dit_folder(tmp_path, CLASSES[name])
    tensors = load_file(folder / WEIGHTS)
    held = load(name, folder).state_dict()
    above = [key for key in tensors if f"transformer.{key}" not in held]
    assert above
    assert all("blocks.3." in key or key.startswith(("norm_out", "proj_out", "scale_shift_table")) for key in above)
    (folder / WEIGHTS).unlink()
    save_file({key: value for key, value in tensors.items() if key not in above}, folder / "transformer/a.safetensors")
    weight_map = {key: "b.safetensors" if key in above else "a.safetensors" for key in tensors}  # b is not there
    (folder / (WEIGHTS + ".index.json")).write_text(json.dumps({"weight_map": weight_map}))
    assert all(torch.equal(value, held[key]) for key, value in load(name, folder).state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 5}, r"has block 5, its transformer has 4 blocks\. Use 1 to 4"),
        ({"block": 0}, r"has block 0, its transformer has 4 blocks\. Use 1 to 4"),
        ({"noise_level": 1.5}, r"has noise_level 1\.5\. Use a number from 0, clean, to 1"),
        ({"blocks": 2}, r"has no setting blocks\. Known settings: block, noise_level, "),
    ],
)
def test_impossible_settings_are_refused(
    folders: dict[str, Path], name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(EncoderError, match=f"{name} {message}"):
        load(name, folders[name], **settings)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("wan21-dit", lambda folder: edit(folder, _class_name="UNet"), "describes UNet, not WanTransformer3DModel"),
        ("wan21-dit", lambda folder: edit(folder, in_channels=36), "of 16 input channels, this one has 36"),
        ("wan21-dit", lambda folder: edit(folder, wings=2), "has no setting wings"),
        ("wan21-dit", lambda folder: edit(folder, ffn_dim=32), "tensors do not fit config.json"),
        ("cosmos-predict2-dit", lambda folder: edit(folder, in_channels=16), "of 17 input channels, this one has 16"),
        ("cosmos-predict2-dit", lambda folder: edit(folder, use_crossattn_projection=True), "Predict2 checkpoint, not"),
        ("cosmos-predict2-dit", lambda folder: edit(folder, concat_padding_mask=False), "takes no padding mask"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(name: str, damage: Any, message: str, tmp_path: Path) -> None:
    folder = make_tiny_dit_folder(tmp_path, CLASSES[name])
    damage(folder)
    with pytest.raises(EncoderError, match=message):
        load(name, folder)
