"""What an answer in plain words says, read by rules: no model, no chance, and never a match inside a longer word.

Each reader returns ``None`` where the text gives no answer, several, or a refusal: that is not a wrong answer.
"""

from theworld_train.evaluate.scorers.clock import clock, clock_error
from theworld_train.evaluate.scorers.letters import letters
from theworld_train.evaluate.scorers.quantity import quantity
from theworld_train.evaluate.scorers.relation import RELATIONS, relation
from theworld_train.evaluate.scorers.truth import truth

__all__ = ["RELATIONS", "clock", "clock_error", "letters", "quantity", "relation", "truth"]
