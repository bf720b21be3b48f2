"""Linear probes: what of a micro-world clip can be read from an encoder's features, without a language model.

`data` says what is read off which clips, `features` makes them a matrix, `fit` reads it, `scores` measures how well,
`run` does all of it for several encoders, and `card` shows it.
"""

from theworld_train.evaluate.probe.card import write_card as write_card
from theworld_train.evaluate.probe.data import PROBES as PROBES
from theworld_train.evaluate.probe.run import BASELINES as BASELINES
from theworld_train.evaluate.probe.run import ProbeSettings as ProbeSettings
from theworld_train.evaluate.probe.run import run_probes as run_probes
from theworld_train.evaluate.probe.scores import Card as Card
