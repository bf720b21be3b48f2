"""Training and evaluation data: typed examples, the sources they come from, and the batches they become."""

from theworld_train.data.batches import Batches as Batches
from theworld_train.data.batches import load as load
from theworld_train.data.batches import merge as merge
from theworld_train.data.collator import CachingCollator as CachingCollator
from theworld_train.data.collator import Collator as Collator
from theworld_train.data.example import Example as Example
from theworld_train.data.heldout import held_out as held_out
