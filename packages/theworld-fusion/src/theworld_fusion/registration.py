"""Our classes in transformers' Auto* tables, and Gemma 3's weight names for them."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    GemmaTokenizer,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from theworld_fusion.configuration_theworld import TheWorldConfig, WorldEncoderConfig
from theworld_fusion.modeling_theworld import TheWorldForConditionalGeneration, TheWorldModel
from theworld_fusion.processing_theworld import TheWorldProcessor


def register() -> None:
    """Make ``AutoModelForImageTextToText`` and friends know ``model_type="theworld"``."""
    AutoConfig.register(WorldEncoderConfig.model_type, WorldEncoderConfig, exist_ok=True)
    AutoConfig.register(TheWorldConfig.model_type, TheWorldConfig, exist_ok=True)
    AutoModel.register(TheWorldConfig, TheWorldModel, exist_ok=True)
    AutoModelForImageTextToText.register(TheWorldConfig, TheWorldForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(TheWorldConfig, TheWorldForConditionalGeneration, exist_ok=True)
    AutoModelForCausalLM.register(TheWorldConfig, TheWorldForConditionalGeneration, exist_ok=True)
    AutoTokenizer.register(TheWorldConfig, fast_tokenizer_class=GemmaTokenizer, exist_ok=True)
    AutoImageProcessor.register(TheWorldConfig, image_processor_classes={"pil": Gemma3ImageProcessorPil}, exist_ok=True)
    AutoProcessor.register(TheWorldConfig, TheWorldProcessor, exist_ok=True)
    # `transformers serve` asks this table of names, not the Auto classes, whether it can load a model.
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[TheWorldConfig.model_type] = TheWorldForConditionalGeneration.__name__  # pyright: ignore[reportArgumentType]
    # Gemma 3 checkpoints on disk use older weight names. transformers translates them by model type and class name,
    # and for classes outside its tree only where told so: otherwise nothing would load, and nothing would say so.
    for ours, gemmas in ((TheWorldConfig.model_type, "gemma3"), (TheWorldModel.__name__, "Gemma3Model")):
        mapping = get_checkpoint_conversion_mapping(gemmas) or []
        register_checkpoint_conversion_mapping(ours, mapping, overwrite=True)
