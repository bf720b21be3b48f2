"""Frozen encoders behind one interface: pixels in, a grid of features out, every number in a spec."""

from importlib.metadata import version

from theworld_encoders.encoder import Encoder as Encoder
from theworld_encoders.errors import DamagedFeatures as DamagedFeatures
from theworld_encoders.errors import EncoderError as EncoderError
from theworld_encoders.errors import MediaError as MediaError
from theworld_encoders.features import FeatureCache as FeatureCache
from theworld_encoders.features import encoder_key as encoder_key
from theworld_encoders.images import decode_image as decode_image
from theworld_encoders.images import load_image as load_image
from theworld_encoders.images import to_rgb as to_rgb
from theworld_encoders.preprocess import preprocess as preprocess
from theworld_encoders.preprocess import to_frames as to_frames
from theworld_encoders.registry import list_controls as list_controls
from theworld_encoders.registry import list_encoders as list_encoders
from theworld_encoders.registry import load_encoder as load_encoder
from theworld_encoders.registry import spec_of as spec_of
from theworld_encoders.source import VideoFile as VideoFile
from theworld_encoders.spec import EncoderSpec as EncoderSpec
from theworld_encoders.video import VideoFrames as VideoFrames
from theworld_encoders.video import read_video as read_video

__version__ = version("theworld-encoders")
