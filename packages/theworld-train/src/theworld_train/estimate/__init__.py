"""What a recipe takes, before anybody pays for it: memory of a process, operations and time of a step. No weights."""

from theworld_train.estimate.count import Geometry as Geometry
from theworld_train.estimate.count import StepCount as StepCount
from theworld_train.estimate.count import count_step as count_step
from theworld_train.estimate.plan import ACCELERATORS as ACCELERATORS
from theworld_train.estimate.plan import Cluster as Cluster
from theworld_train.estimate.plan import Plan as Plan
from theworld_train.estimate.plan import plan as plan
