"""A recipe's ``model`` section, held against the model's own configuration."""

from dataclasses import fields

from huggingface_hub.errors import StrictDataclassFieldValidationError

from theworld_encoders import EncoderError
from theworld_encoders.registry import encoder_class
from theworld_fusion import TheWorldConfig
from theworld_fusion.configuration_theworld import unknown_field
from theworld_train.errors import UsageError
from theworld_train.recipe import ModelSettings


def check_model(model: ModelSettings) -> None:
    """Raises:
    UsageError: the encoder is unknown, or a field of ``model.config`` is unknown or has an impossible value.
    """
    try:
        encoder_class(model.encoder)
    except EncoderError as error:
        raise UsageError(f"model.encoder: {error}") from error
    known = {field.name for field in fields(TheWorldConfig)}
    for name in model.config:
        if name not in known:
            raise UsageError(f"model.config.{name}: {unknown_field(name)}")
    if "world_config" in model.config:
        raise UsageError("model.config.world_config is made from the encoder. Use model.encoder and its settings.")
    try:
        TheWorldConfig(world_config={"encoder": model.encoder}, **model.config)
    except StrictDataclassFieldValidationError as error:
        raise UsageError(f"model.config: {error.__cause__}. Give a value of that type.") from error
    except ValueError as error:
        raise UsageError(f"model.config: {error}") from error
