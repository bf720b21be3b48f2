"""What the processors under test are made of, ours and the control's: toy parts made by code, nothing downloaded."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from transformers import GemmaTokenizer
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from tests import test_processing_common as common
from theworld_fusion.testing import random_picture
from theworld_fusion.tiny_tokenizer import make_tiny_tokenizer


class Components:
    """In place of what ``ProcessorTesterMixin`` takes from the hub or guesses from a test file's name."""

    @classmethod
    def setUpClass(cls) -> None:
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())  # pyright: ignore[reportAttributeAccessIssue]
        for seed, name in enumerate(("coco_sample.png", "australia.jpg")):
            random_picture(seed).save(Path(folder) / name)
        pictures = [str(Path(folder) / "coco_sample.png")] * 2
        for context in (
            contextlib.chdir(folder),  # where the mixin looks before it downloads
            mock.patch.dict(common.MODALITY_INPUT_DATA, {"images": pictures}),
        ):
            cls.enterClassContext(context)  # pyright: ignore[reportAttributeAccessIssue]
        super().setUpClass()  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def _setup_image_processor(cls) -> Gemma3ImageProcessorPil:
        pan_and_scan: dict[str, Any] = {
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 256,
            "pan_and_scan_max_num_crops": 4,
            "pan_and_scan_min_ratio_to_activate": 1.2,
        }
        return Gemma3ImageProcessorPil(**pan_and_scan)

    @classmethod
    def _setup_tokenizer(cls) -> GemmaTokenizer:
        return make_tiny_tokenizer()
