"""The demo's report: a table for the terminal, and one self-contained HTML page with the table, curves and clips."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure

from theworld_train.demo.result import ARMS, Answered, DemoResult
from theworld_train.microworld import FRAME_FAMILIES, MOTION_FAMILIES
from theworld_train.pictures import data_url, plot_png, strip_png


def rows(result: DemoResult) -> list[tuple[str, Callable[[Answered], bool]]]:
    """The rows of the table: both kinds of question, and every family of each."""
    overall: list[tuple[str, Callable[[Answered], bool]]] = [
        ("motion", lambda one: one.motion),
        *((f"  {family}", lambda one, family=family: one.family == family) for family in MOTION_FAMILIES),
        ("single frame", lambda one: not one.motion),
        *((f"  {family}", lambda one, family=family: one.family == family) for family in FRAME_FAMILIES),
    ]
    return overall


def table(result: DemoResult) -> str:
    """Accuracy in per cent with 95 % intervals, an arm a column, as text."""
    lines = [f"{'questions':<15}{'n':>5}{'chance':>8}  " + "".join(f"{_title(arm):<19}" for arm in ARMS)]
    for name, select in rows(result):
        cells = {arm: result.score(arm, select) for arm in ARMS}
        one = cells["on"]
        lines.append(
            f"{name:<15}{one.total:>5}{one.chance:>8.1%}  " + "".join(f"{_cell(cells[arm]):<19}" for arm in ARMS)
        )
    return "\n".join(line.rstrip() for line in lines)


def write_report(result: DemoResult, path: Path) -> None:
    """Write the page; it needs no other file and no network."""
    template = files("theworld_train.demo").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    path.write_text(
        page.render(
            result=result,
            arms=[_title(arm) for arm in ARMS],
            rows=[_html_row(result, name, select) for name, select in rows(result)],
            curves=data_url(_curves(result)),
            clips=_clips(result),
        ),
        encoding="utf-8",
    )


def _title(arm: str) -> str:
    return f"world {arm}" if arm in ("on", "off") else arm


def _cell(score: Any) -> str:
    low, high = score.interval()
    return f"{score.value:6.1%} [{low:.0%}, {high:.0%}]"


def _html_row(result: DemoResult, name: str, select: Callable[[Answered], bool]) -> dict[str, Any]:
    scores = [result.score(arm, select) for arm in ARMS]
    return {"name": name.strip(), "part": name.startswith(" "), "chance": scores[0].chance, "scores": scores}


def _curves(result: DemoResult) -> bytes:
    """Loss over steps, one line for each trained model, smoothed over 20 steps, as PNG."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for name, losses in result.losses.items():
        smooth = [sum(losses[max(0, step - 19) : step + 1]) / min(step + 1, 20) for step in range(len(losses))]
        axes.plot(range(1, len(smooth) + 1), smooth, label=name)
    axes.set(xlabel="step", ylabel="loss on answer tokens (nats)", yscale="log")
    axes.legend()
    return plot_png(figure)


def _clips(result: DemoResult) -> list[dict[str, Any]]:
    """Some held-out clips of each family, as film strips, with every arm's answer."""
    return [
        {
            "strip": data_url(strip_png(clip.frames)),
            "question": clip.questions[0],
            "answers": [one for one in result.answered if one.clip == index],
        }
        for index, clip in result.shown.items()
    ]
