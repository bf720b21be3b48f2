"""What the encoder halves of diffusers' autoencoders share: settings, loading, standard latents."""

import inspect
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.checkpoint import load_exactly, read_config, read_tensors
from theworld_encoders.encoder import Encoder
from theworld_encoders.errors import EncoderError
from theworld_encoders.spec import EncoderSpec


class VaeEncoder(Encoder):
    """Latents as the diffusion model wants them: the posterior's mode, with the configuration's means and deviations.

    The decoder is neither built nor read from disk.
    """

    autoencoder: ClassVar[str]
    """diffusers' class, as ``config.json`` names it."""
    settings: ClassVar[dict[str, Any]] = {}
    """Published settings that differ from the class's defaults."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        config = self._complete(config)
        super().__init__(self.spec_for(config, frame_size or self.published.frame_size), config)
        self._check_statistics()
        for name in ("latents_mean", "latents_std"):
            self.register_buffer(name, self._statistic(name), persistent=False)
        self.build()
        self.freeze()

    @classmethod
    @abstractmethod
    def spec_for(cls, config: dict[str, Any], frame_size: int) -> EncoderSpec:
        """The published spec with what a configuration changes."""

    @abstractmethod
    def build(self) -> None:
        """Make ``encoder`` and ``quant_conv`` under their published names."""

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> Self:
        return cls(config, frame_size)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        frame_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        folder = cls.folder_of(source, revision)
        encoder = cls(read_config(folder, cls.autoencoder), frame_size)
        load_exactly(encoder, read_tensors(folder, ("encoder.", "quant_conv.")), folder)
        return encoder.to(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.GroupNorm):
                module.reset_parameters()
            elif "gamma" in dict(module.named_parameters(recurse=False)):
                nn.init.ones_(module.gamma)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            self.latents_mean.copy_(self._statistic("latents_mean"))
            self.latents_std.copy_(self._statistic("latents_std"))

    def standardise(self, latents: Float[Tensor, "m c t r s"]) -> Float[Tensor, "m t r s c"]:
        """Zero mean and unit deviation by channel, and by frame where the checkpoint has them so."""
        frames = latents.shape[2]
        mean, std = (stat[:frames, None, None].to(latents.dtype) for stat in (self.latents_mean, self.latents_std))
        return (rearrange(latents, "m c t r s -> m t r s c") - mean) / std

    def _statistic(self, name: str) -> Float[Tensor, "t c"]:
        return rearrange(torch.tensor(self.config[name]), "(c t) -> t c", c=self.spec.width)

    def _check_statistics(self) -> None:
        means, deviations = (len(self.config[name] or ()) for name in ("latents_mean", "latents_std"))
        if means != deviations or means == 0 or means % self.spec.width:
            raise EncoderError(
                f"config.json has {means} latent means and {deviations} deviations for {self.spec.width} channels. "
                "Fetch the checkpoint again."
            )

    @classmethod
    def _complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Published configurations leave out what diffusers added later; its defaults are what they mean."""
        parameters = inspect.signature(cls.diffusers_class().__init__).parameters.values()
        known = {parameter.name: parameter.default for parameter in list(parameters)[1:]}
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise EncoderError(
                f"{cls.autoencoder} has no setting {', '.join(unknown)}. "
                "Install the diffusers that wrote the checkpoint."
            )
        full = {**known, **cls.settings, **config}
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in full.items()
        }  # as JSON has it

    @classmethod
    def diffusers_class(cls) -> type[Any]:
        """The whole autoencoder's class.

        Raises:
            EncoderError: diffusers is not installed.
        """
        try:
            with torch.device("cpu"):  # it makes tensors when it is imported, which a model without memory would spoil
                return getattr(import_module("diffusers.models.autoencoders"), cls.autoencoder)
        except ImportError as error:
            raise EncoderError(
                f'{cls.published.name} needs diffusers. Install it: pip install "theworld-encoders[cosmos]"'
            ) from error
