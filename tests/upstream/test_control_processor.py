"""The control: the same tests on stock Gemma 3's processor."""

from components import Components
from tests.models.gemma3 import test_processing_gemma3 as gemma3


class Gemma3ControlProcessorTest(Components, gemma3.Gemma3ProcessorTest):
    """Stock, from the parts that ours is made of."""
