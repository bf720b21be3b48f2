"""Training and evaluation data: typed examples, and the collator that turns them into batches."""

from theworld_train.data.collator import CachingCollator as CachingCollator
from theworld_train.data.collator import Collator as Collator
from theworld_train.data.example import Example as Example
