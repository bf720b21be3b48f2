"""The demo of ``theworld demo``; see ``theworld_train.demo.run`` for what it does."""

from theworld_train.demo.result import ARMS as ARMS
from theworld_train.demo.result import Answered as Answered
from theworld_train.demo.result import DemoResult as DemoResult
from theworld_train.demo.run import run_demo as run_demo
from theworld_train.demo.size import DemoSize as DemoSize
