"""Gemma 3's own model tests on our classes. A fusion mode is one more subclass of the last class."""

from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import torch
from tests.models.gemma3 import test_modeling_gemma3 as gemma3
from transformers import PreTrainedModel

from theworld_encoders.testing import TINY_WAN_VAE
from theworld_fusion import TheWorldConfig, TheWorldForConditionalGeneration, TheWorldModel, WorldEncoderConfig
from theworld_fusion.slots import num_slots

FRAME_SIZE, NUM_FRAMES, LATENT_FRAMES = 16, 5, 2
"""The smallest clip that has a causal cache to keep: 2 x 2 latents, twice."""

SOW, EOW, WORLD = 5, 6, 7
"""Ids in the toy vocabulary; 0 to 4 are padding, BOS, EOS, UNK and the image token."""


class TheWorldModelTester(gemma3.Gemma3Vision2TextModelTester):
    """Gemma 3's toy sizes, a toy encoder, and one clip for each row. The mode is the test class's."""

    base_model_class = TheWorldModel
    config_class = TheWorldConfig
    conditional_generation_class = TheWorldForConditionalGeneration
    sequence_classification_class = None  # we have none

    def __init__(self, parent: "TheWorldModelTest", **kwargs: Any) -> None:
        settings = {
            "world_fusion": parent.world_fusion,
            "world_tokens_per_item": 16,
            "world_start_token_id": SOW,
            "world_end_token_id": EOW,
            "world_token_id": WORLD,
            "max_world_frames": 4,
        }
        super().__init__(parent, **{**settings, **kwargs})

    @property
    def _special_token_ids(self) -> set[int]:
        return {*super()._special_token_ids, SOW, EOW, WORLD}

    def _build_modality_sub_configs(self) -> dict[str, Any]:
        world = WorldEncoderConfig(encoder_config=dict(TINY_WAN_VAE), frame_size=FRAME_SIZE)
        return {**super()._build_modality_sub_configs(), "world_config": world}

    def _prepare_modality_inputs(
        self, input_ids: torch.Tensor, config: TheWorldConfig
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        input_ids, inputs = super()._prepare_modality_inputs(input_ids, config)
        if config.world_fusion == "sequence":
            span = [SOW, *[WORLD] * num_slots(config.world_tokens_per_item, LATENT_FRAMES), EOW]
            input_ids[:, self.num_image_tokens : self.num_image_tokens + len(span)] = torch.tensor(span)
        # No seed reaches transformers' own generator.
        generator = torch.Generator().manual_seed(0)
        clips = torch.rand(self.batch_size, NUM_FRAMES, 3, FRAME_SIZE, FRAME_SIZE, generator=generator) * 2 - 1
        return input_ids, {**inputs, "pixel_values_world": clips.to(input_ids.device)}

    def get_additional_inputs(self, config: TheWorldConfig, input_ids: torch.Tensor, modality_inputs: Any) -> Any:
        inputs = super().get_additional_inputs(config, input_ids, modality_inputs)
        inputs["token_type_ids"][input_ids == config.world_token_id] = 1
        return inputs


def without_world(prepare: Callable[[], tuple[TheWorldConfig, dict[str, Any]]]) -> Callable[[], Any]:
    """The same inputs, but for the world's."""

    def prepared() -> tuple[TheWorldConfig, dict[str, Any]]:
        config, inputs = prepare()
        return config, {name: value for name, value in inputs.items() if name != "pixel_values_world"}

    return prepared


class _StockNames:
    """For the tests that name stock classes instead of asking the tester: ours, under those names."""

    def setUp(self) -> None:
        super().setUp()  # pyright: ignore[reportAttributeAccessIssue]
        for name, ours in (
            ("Gemma3Model", TheWorldModel),
            ("Gemma3ForConditionalGeneration", TheWorldForConditionalGeneration),
        ):
            patch = mock.patch.object(gemma3, name, ours)
            patch.start()
            self.addCleanup(patch.stop)  # pyright: ignore[reportAttributeAccessIssue]


class TheWorldModelTest(_StockNames, gemma3.Gemma3Vision2TextModelTest):
    """World tokens in the sequence."""

    model_tester_class = TheWorldModelTester
    world_fusion: ClassVar[str] = "sequence"
    test_can_init_all_missing_weights_before_2023 = True  # it takes a file without a copyright year for an old one

    def test_can_init_all_missing_weights(self) -> None:
        """As for classes of transformers: with others, SigLIP's linear layers count as filled in, ours or not."""
        with mock.patch.object(PreTrainedModel, "is_custom_code", return_value=False):
            super().test_can_init_all_missing_weights()

    def test_mismatching_num_image_tokens(self) -> None:
        """With pictures alone: it doubles the rows, and not inputs that it does not know."""
        prepare = self.model_tester.prepare_config_and_inputs_for_common
        with mock.patch.object(self.model_tester, "prepare_config_and_inputs_for_common", without_world(prepare)):
            super().test_mismatching_num_image_tokens()


class TheWorldGatedModelTest(TheWorldModelTest):
    """World features added to image tokens."""

    world_fusion = "gated"

    def test_training(self) -> None:
        """Without the world's clips: it takes the pictures away, and not inputs that it does not know."""
        prepare = self.model_tester.prepare_config_and_inputs_for_common
        with mock.patch.object(self.model_tester, "prepare_config_and_inputs_for_common", without_world(prepare)):
            super().test_training()
