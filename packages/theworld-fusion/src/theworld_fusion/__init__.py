"""Gemma 3 with world tokens, as ordinary Hugging Face classes; importing this registers them in the Auto classes."""

from importlib.metadata import version

from theworld_fusion.adapter import fill_adapter as fill_adapter
from theworld_fusion.adapter import load_adapter as load_adapter
from theworld_fusion.adapter import save_adapter as save_adapter
from theworld_fusion.assemble import assemble as assemble
from theworld_fusion.checkpoint import load_model as load_model
from theworld_fusion.checkpoint import load_processor as load_processor
from theworld_fusion.configuration_theworld import TheWorldConfig as TheWorldConfig
from theworld_fusion.configuration_theworld import WorldEncoderConfig as WorldEncoderConfig
from theworld_fusion.errors import CheckpointError as CheckpointError
from theworld_fusion.hub import is_adapter as is_adapter
from theworld_fusion.hub import is_hub_id as is_hub_id
from theworld_fusion.modeling_theworld import TheWorldForConditionalGeneration as TheWorldForConditionalGeneration
from theworld_fusion.modeling_theworld import TheWorldModel as TheWorldModel
from theworld_fusion.prefix import PrefixCache as PrefixCache
from theworld_fusion.processing_theworld import TheWorldProcessor as TheWorldProcessor
from theworld_fusion.registration import register

TheWorld = TheWorldForConditionalGeneration
__version__ = version("theworld-fusion")

register()
