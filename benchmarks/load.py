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
torch.set_num_threads(1)
import transformers.models.siglip.modeling_siglip, transformers.models.gemma3.modeling_gemma3, theworld_encoders.wan_vae
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model = load_model(sys.argv[1], dtype=torch.bfloat16)
max(one.max() for one in model.state_dict().values() if one.numel())  # a mapped file takes memory when it is looked at
print(status("VmHWM") - before, sum(one.nbytes for one in model.state_dict().values()))
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
