"""Our class names in transformers' static tables: its tests look classes up there, and pass empty for unknown ones."""

from transformers.models.auto import modeling_auto

from theworld_fusion import TheWorldConfig, TheWorldForConditionalGeneration, TheWorldModel

OURS = {
    "Gemma3Model": TheWorldModel.__name__,
    "Gemma3ForConditionalGeneration": TheWorldForConditionalGeneration.__name__,
}
"""Stock class to the one that stands in for it. There is no classifier of ours."""


def adopt() -> None:
    """Enter our names wherever Gemma 3's stand."""
    for name, table in vars(modeling_auto).items():
        if name.startswith("MODEL_") and name.endswith("MAPPING_NAMES") and table.get("gemma3") in OURS:
            table[TheWorldConfig.model_type] = OURS[table["gemma3"]]
