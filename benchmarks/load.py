"""How much memory loading a checkpoint takes, over what its weights take."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.models import build
from benchmarks.row import Row

SCRIPT = """
import gc, sys, torch
from pathlib import Path
from theworld_fusion import load_model
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
def load():
    model = load_model(sys.argv[1], dtype=torch.bfloat16)
    for one in model.state_dict().values():  # a mapped file takes memory when it is looked at
        one.max() if one.numel() else None
    return {one.untyped_storage().data_ptr(): one.nbytes for one in model.state_dict().values()}
torch.set_num_threads(1)
load()  # what is imported on the way is not the weights'
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
weights = load()
print(status("VmHWM") - before, sum(weights.values()))
"""


def timed_rows(full: bool) -> Iterator[Row]:
    """Peak of the resident set while loading, the file's mapped pages included."""
    with tempfile.TemporaryDirectory() as folder:
        build("v262k").save_pretrained(Path(folder))
        command = [sys.executable, "-c", SCRIPT, folder]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    peak, weights = (int(number) / 1e6 for number in output[-2:])
    arms = {"peak": peak, "weights": weights}
    yield Row(
        name="load.rss",
        value=peak / weights,
        low=peak / weights,
        high=peak / weights,
        geometry={"model": "v262k"},
        arms=arms,
    )
