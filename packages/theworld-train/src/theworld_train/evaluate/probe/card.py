"""The score card: Markdown, a bar chart, and JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from theworld_train.evaluate.probe.data import PROBES
from theworld_train.evaluate.probe.scores import Card, Score

_METRICS = {"R2": "R²", "accuracy": "accuracy"}


def write_card(card: Card, out: Path) -> None:
    """Write ``probes.md``, ``probes.png`` and ``probes.json`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "probes.json").write_text(json.dumps(as_json(card), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "probes.md").write_text(markdown(card), encoding="utf-8")
    draw(card, out / "probes.png")


def as_json(card: Card) -> dict[str, object]:
    """Plain values of everything on the card."""
    return asdict(card)


def table(card: Card) -> tuple[list[str], list[list[str]]]:
    """Header and rows for people; an interval stands behind each value."""
    header = ["", "overall", *PROBES, "numbers"]
    rows = [
        [
            row.name,
            _cell(row.overall, row.low, row.high),
            *(_cell(score.value, score.low, score.high) for score in row.scores.values()),
            f"{row.numbers:,} → {row.width}",
        ]
        for row in card.rows
    ]
    first = card.rows[0].scores
    chance = ["chance", "0", *(f"{score.chance:.2f}" for score in first.values()), ""]
    return header, [*rows, chance]


def notes(card: Card) -> list[str]:
    """What has to be known to read the table, and whether its data passed their own check."""
    clips = ", ".join(f"{name} {card.train_clips[name]} and {card.test_clips[name]}" for name in PROBES)
    metrics = ", ".join(f"{name} {_METRICS[score.metric]}" for name, score in card.rows[0].scores.items())
    found = [
        f"Linear probes on micro-world clips, split {card.split}, seed {card.seed}. Figures: {metrics}; in brackets, "
        "95 % intervals by resampling matched groups of clips. Overall: mean over probes of the share of the way from "
        "chance to perfect.",
        f"Clips fitted and scored on: {clips}. All features are averaged to 4 x 4 places a frame, standardised, and "
        f"cut to their first {card.width} principal components, all by training clips alone.",
        *(_permuted(name, [row.scores[name] for row in card.rows]) for name in PROBES),
    ]
    for name, probe in PROBES.items():
        if probe.needs_clip:
            found += [_honesty(name, row.scores[name]) for row in card.rows if row.name == "raw pixels, last frame"]
    return found


def markdown(card: Card) -> str:
    """The table with its notes."""
    header, rows = table(card)
    lines = ["# What linear probes read", ""]
    lines += [_line(header), _line(["---"] + ["---:"] * (len(header) - 1)), *map(_line, rows), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes(card))]) + "\n"


def draw(card: Card, path: Path) -> None:
    """A panel for each probe: a bar with its interval for each row, and a line at chance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [row.name for row in card.rows]
    figure = Figure(figsize=(3 + 2.6 * (1 + len(PROBES)), 1.2 + 0.34 * len(names)), layout="constrained")
    panels = figure.subplots(1, 1 + len(PROBES), sharey=True)
    bars = [("overall", 0.0, [(row.overall, row.low, row.high) for row in card.rows])]
    for name in PROBES:
        scores = [row.scores[name] for row in card.rows]
        metric = _METRICS[scores[0].metric]
        bars.append((f"{name}, {metric}", scores[0].chance, [(one.value, one.low, one.high) for one in scores]))
    colours = ["#9aa4af" if row.baseline else "#2f6fb5" for row in card.rows]
    for axes, (title, chance, values) in zip(panels, bars, strict=True):
        for place, (value, low, high) in enumerate(values):
            axes.barh(place, value - chance, left=chance, color=colours[place], height=0.7)
            axes.plot([low, high], [place, place], color="#1b1f24", linewidth=1.5)
        axes.axvline(chance, color="#a40e26", linestyle="--", linewidth=1)
        axes.set(title=title, xlim=(min(chance, *(low for _, low, _ in values)) - 0.05, 1.05))
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    FigureCanvasAgg(figure).print_png(str(path))


def _permuted(name: str, scores: Sequence[Score]) -> str:
    highest = max(score.permuted_high for score in scores)
    mean = sum(score.permuted for score in scores) / len(scores)
    return (
        f"Permuted, {name}: fitted to permuted targets, probes reach {mean:.2f} on average over all rows, and in each "
        f"97.5 % of them {highest:.2f} at most; chance is {scores[0].chance:.2f}."
    )


def _honesty(name: str, score: Score) -> str:
    at_chance = score.low <= max(score.chance, score.permuted_high)
    return f"Check: {name} from the last frame alone is {_cell(score.value, score.low, score.high)}: " + (
        "at chance, as it must be."
        if at_chance
        else "ABOVE CHANCE. These clips give it away in a single frame, so it measures less than it says."
    )


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
