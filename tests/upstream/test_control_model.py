"""The control: the same tests on stock Gemma 3."""

from tests.models.gemma3.test_modeling_gemma3 import Gemma3Vision2TextModelTest as Gemma3Vision2TextModelTest
