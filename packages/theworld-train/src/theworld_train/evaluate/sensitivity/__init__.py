"""Sensitivity: how much a model's answers depend on its world input, before anybody spends on training.

`likelihood` asks for an answer's log-probability, `changes` takes world features away piece by piece, `attention` sees
where answers look, `measure` does all of it for many examples, `result` sums up, and `report` shows it.
"""

from theworld_train.evaluate.sensitivity.measure import SensitivitySettings as SensitivitySettings
from theworld_train.evaluate.sensitivity.measure import measure as measure
from theworld_train.evaluate.sensitivity.report import write_report as write_report
from theworld_train.evaluate.sensitivity.result import Sensitivity as Sensitivity
