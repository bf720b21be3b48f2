"""Run benchmarks, print a JSON object for each row, and at the end a table.

The deterministic counts come first; their bounds are also tests. Times are processor times of one thread, of arms that
take turns in one process; a target is met if the whole 95 % interval says so.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.row import hardware, table
from benchmarks.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        "benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(dict.fromkeys(name.split(".")[0] for name in TARGETS))
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"which to run, of {', '.join(names)}; default: all"
    )
    parser.add_argument("--counted", action="store_true", help="only what is counted, the same on every machine")
    parser.add_argument("--full", action="store_true", help="the long ones too: some 30 minutes and 8 GB of memory")
    parser.add_argument("--out", type=Path, help="a file to write the JSON objects to, too")
    parser.add_argument("--table", type=Path, help="a markdown file to write the table to, too")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(names):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}. Choose from {', '.join(names)}.")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    started = time.time()
    records: list[dict[str, Any]] = []
    for name in tqdm(options.modules or names, unit="module", file=sys.stderr):
        module = importlib.import_module(f"benchmarks.{name}")
        counts = module.counted_rows() if hasattr(module, "counted_rows") else ()
        timed = hasattr(module, "timed_rows") and not options.counted
        times = module.timed_rows(options.full) if timed else ()
        for row in chain(counts, times):
            records.append(row.record())
            print(json.dumps(records[-1]), flush=True)
    if options.out:
        options.out.write_text("".join(json.dumps(record) + "\n" for record in records))
    if not records:
        print("Nothing to measure here. Give --full, or run on an accelerator.")
        return 0
    versions = ", ".join(f"{name} {number}" for name, number in records[0]["versions"].items())
    about = f"{hardware()}, one thread, {versions}, {time.strftime('%Y-%m-%d', time.gmtime(started))}"
    text = f"{table(records)}\n\n{about}; {time.time() - started:.0f} s.\n"
    print(f"\n{text}")
    if options.table:
        options.table.write_text(text)
    return int(any(record["met"] is False for record in records))


def keep_to_what_works() -> None:
    """Some virtual machines announce matrix instructions that they do not have: without them, if one dies of it."""
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        return
    probe = "import torch; x = torch.ones(64, 64, dtype=torch.bfloat16); x @ x"
    if subprocess.run([sys.executable, "-c", probe], check=False).returncode < 0:
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_FP16"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])


if __name__ == "__main__":
    keep_to_what_works()
    sys.exit(main())
