"""Stands in a saved folder for code: this checkpoint's classes are those of the installed package theworld-fusion."""

try:
    from theworld_fusion import TheWorldConfig as TheWorldConfig
    from theworld_fusion import TheWorldForConditionalGeneration as TheWorldForConditionalGeneration
    from theworld_fusion import TheWorldModel as TheWorldModel
    from theworld_fusion import TheWorldProcessor as TheWorldProcessor
except ModuleNotFoundError as error:
    if error.name != "theworld_fusion":
        raise
    raise ImportError(
        "this checkpoint needs the package theworld-fusion, which is not installed. Run: pip install theworld-fusion"
    ) from error
