"""Our encoder half equals diffusers' whole VAE; loading is strict; nothing else is held."""

import json
import threading
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from theworld_encoders import Encoder, EncoderError, load_encoder
from theworld_encoders.registry import encoder_class
from theworld_encoders.testing import TINY_FRAME_SIZE, check_encoder, make_tiny_cosmos_folder

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_cosmos_folder(tmp_path / "cosmos")


def load(folder: Path) -> Encoder:
    return load_encoder("cosmos-predict2-vae", folder, frame_size=TINY_FRAME_SIZE)


def clip(frames: int, items: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(items, frames, 3, TINY_FRAME_SIZE, TINY_FRAME_SIZE, generator=generator) * 2 - 1


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_features_are_the_standardised_mode_of_diffusers_vae(folder: Path, frames: int) -> None:
    vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae")
    pixels = clip(frames)
    with torch.no_grad():
        mode = vae.encode(pixels.transpose(1, 2)).latent_dist.mode()  # [m, c, t, r, s]
    mean, std = (torch.tensor(vae.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    wanted = ((mode - mean) / std).permute(0, 2, 3, 4, 1)
    features = load(folder)(pixels)
    assert features.shape == (2, 1 + (frames - 1) // 4, 6, 6, 16)
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-5)


def test_contract(folder: Path) -> None:
    check_encoder(load(folder))


def test_the_contract_check_can_fail(folder: Path) -> None:
    encoder = load(folder)
    encode = encoder.encode
    encoder.encode = lambda pixels: torch.zeros_like(encode(pixels))  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="do not depend on the pixels"):
        check_encoder(encoder, without=("copies", "dtype"))  # both copy, and the lambda knows the original


def test_only_the_encoder_half_is_held_under_its_original_keys(folder: Path) -> None:
    published = load_file(folder / WEIGHTS)
    held = load(folder).state_dict()
    assert set(held) == {key for key in published if key.startswith(("encoder.", "quant_conv."))}
    assert all(torch.equal(held[key], published[key]) for key in held)


def test_random_weights_from_the_configuration_alone(folder: Path) -> None:
    encoder = load(folder)
    rebuilt = type(encoder).from_config(encoder.config, frame_size=TINY_FRAME_SIZE)
    assert rebuilt.spec == encoder.spec
    assert {key: value.shape for key, value in rebuilt.state_dict().items()} == {
        key: value.shape for key, value in encoder.state_dict().items()
    }
    check_encoder(rebuilt)


def test_published_defaults_have_the_published_size() -> None:
    with torch.device("meta"):
        encoder = encoder_class("cosmos-predict2-vae").from_config({})
    assert encoder.spec.width == 16
    # 53,596,992 in the encoder and 1,056 in quant_conv: performance table of the published model
    assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 1) == 53.6


def test_threads_may_share_an_encoder(folder: Path) -> None:
    encoder, clips = load(folder), [clip(9, items=1) + 0.01 * index for index in range(8)]
    alone = [encoder(item) for item in clips]
    shared: list[torch.Tensor | None] = [None] * len(clips)

    def work(index: int) -> None:
        shared[index] = encoder(clips[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_flow_only_when_asked(folder: Path) -> None:
    encoder = load(folder)
    assert not encoder(clip(1)).requires_grad
    assert not encoder.training
    encoder.requires_grad_(True)
    encoder(clip(5)).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_dtype(folder: Path) -> None:
    encoder = load_encoder("cosmos-predict2-vae", folder, frame_size=TINY_FRAME_SIZE, dtype=torch.bfloat16)
    features = encoder(clip(5).bfloat16())
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(features.float(), load(folder)(clip(5)), rtol=0.1, atol=0.15)


def test_a_clip_that_breaks_the_frame_rule_is_refused(folder: Path) -> None:
    with pytest.raises(EncoderError, match=r"cannot encode 6 frames. Use 1 \+ 4 \* n frames, e.g. 9"):
        load(folder)(clip(6))


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["encoder.conv_in.weight"]
    save_file(tensors, folder / WEIGHTS)


def reshape_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["quant_conv.bias"] = tensors["quant_conv.bias"][:-1].clone()
    save_file(tensors, folder / WEIGHTS)


def cut_the_file(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "vae/config.json").unlink(), "has no vae/config.json"),
        (lambda folder: (folder / "vae/config.json").write_text("{"), "is no JSON"),
        (lambda folder: edit_config(folder, _class_name="AutoencoderKL"), "describes AutoencoderKL, not"),
        (lambda folder: edit_config(folder, wings=2), "has no setting wings"),
        (lambda folder: edit_config(folder, patch_size=2), "cannot use patch_size 2"),
        (lambda folder: edit_config(folder, latents_mean=[0.0]), "has 1 latent means and 16 deviations"),
        (lambda folder: (folder / WEIGHTS).unlink(), "pickled weights are not read"),
        (drop_a_tensor, r"encoder\.conv_in\.weight is missing"),
        (reshape_a_tensor, r"quant_conv\.bias is \(31,\), not \(32,\)"),
        (cut_the_file, "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(EncoderError, match=message):
        load(folder)


def test_sharded_weights_are_read_through_their_index(folder: Path) -> None:
    whole = load(folder).state_dict()
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in files.items():
        save_file({key: tensors[key] for key in keys}, folder / "vae" / file)
    weight_map = {key: file for file, keys in files.items() for key in keys}
    (folder / (WEIGHTS + ".index.json")).write_text(json.dumps({"weight_map": weight_map}))
    assert all(torch.equal(value, whole[key]) for key, value in load(folder).state_dict().items())
