"""Gemma 3's own processor tests on our processor, in both placements of the world span."""

import unittest
from typing import Any, ClassVar

import pytest
from components import Components
from tests.models.gemma3 import test_processing_gemma3 as gemma3

from theworld_fusion import TheWorldProcessor


class TheWorldProcessorTest(Components, gemma3.Gemma3ProcessorTest):
    """World tokens after BOS."""

    processor_class = TheWorldProcessor
    settings: ClassVar[dict[str, Any]] = {
        "world_frame_size": 16,
        "world_tokens_per_item": 4,
        "world_placement": "first",
    }

    @classmethod
    def prepare_processor_dict(cls) -> dict[str, Any]:
        return {**super().prepare_processor_dict(), **cls.settings}

    def test_text_with_image_tokens(self) -> None:
        """Ours is wider: a flat list of items is refused only where the placeholders leave a doubt."""
        processor, image = self.get_processor(), self.prepare_images_inputs()
        one, two = (f"{processor.boi_token * count}Dummy text!" for count in (1, 2))
        with pytest.raises(ValueError, match=r"are 0 .* for 1 items"):
            processor(text="Dummy text!", images=image)
        with pytest.raises(ValueError, match=r"are 3 .* for 2 items"):
            processor(text=[one, two], images=[image, image])
        flat, nested, both = (
            processor(text=text, images=images, return_tensors="pt")["pixel_values"].tolist()
            for text, images in (([one, one], [image] * 2), ([one, one], [[image], [image]]), (two, [image] * 2))
        )
        assert flat == nested
        assert flat == both

    def test_where_spans_stand(self) -> None:
        """Leading world spans are entries of their own, which replace nothing."""
        processor, image = self.get_processor(), self.prepare_images_inputs()
        text = f"lower newer {processor.boi_token} and {processor.boi_token}"
        inputs = processor(
            text=text, images=[image, image], add_special_tokens=False, return_text_replacement_offsets=True
        )
        decoded, offsets = processor.tokenizer.decode(inputs["input_ids"][0]), inputs["text_replacement_offsets"][0]
        assert len(offsets) == (2 if processor.world_placement == "beside_image" else 3)
        for entry in offsets:
            assert decoded[slice(*entry["new_span"])] == entry["replacement"]
            assert text[slice(*entry["span"])] == entry["text"]

    @unittest.skip("as for Gemma 3, by whose name it is skipped upstream: published files hold null for these")
    def test_no_redundant_default_kwargs(self) -> None:
        pass


class TheWorldBesideImageProcessorTest(TheWorldProcessorTest):
    """World tokens before their image."""

    settings: ClassVar[dict[str, Any]] = {**TheWorldProcessorTest.settings, "world_placement": "beside_image"}
