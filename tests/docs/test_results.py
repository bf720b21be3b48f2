"""Figures on the pages are those of runs: what commands printed lies in docs/results, reports in docs/_static."""

import re

from pages import ROOT

from theworld_train.microworld import FRAME_FAMILIES, MOTION_FAMILIES


def test_the_demos_table_has_todays_families() -> None:
    rows = re.findall(r"^  (\w+) ", (ROOT / "docs/results/demo.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [*MOTION_FAMILIES, *FRAME_FAMILIES]


def test_figures_in_the_log_of_experiments_stand_in_results() -> None:
    kept = [*ROOT.glob("docs/results/*"), *ROOT.glob("docs/_static/*.html")]
    results = "\n".join(path.read_text(encoding="utf-8") for path in kept)
    figures = re.findall(r"\d+\.\d+", (ROOT / "docs/experiments.md").read_text(encoding="utf-8"))
    assert len(figures) > 3
    assert [figure for figure in figures if figure not in results] == []
