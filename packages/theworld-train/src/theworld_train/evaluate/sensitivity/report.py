"""The report: JSON, Markdown, pictures, and one page that needs no other file."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from theworld_train.evaluate.sensitivity.attention import KINDS
from theworld_train.evaluate.sensitivity.result import (
    CHANGES,
    Effect,
    Map,
    Measured,
    Sensitivity,
    mean_attention,
    verdict,
)


def write_report(result: Sensitivity, out: Path) -> None:
    """Write ``sensitivity.json``, ``.md`` and ``.html`` and their pictures into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = {"changes.png": _bars(result), "attention.png": _layers(result)}
    maps = [(f"map-{number:03}-{one.item}.png", example, one) for number, example, one in _maps_of(result)]
    pictures |= {name: _overlay(one) for name, _, one in maps}
    for name, png in pictures.items():
        (out / name).write_bytes(png)
    text = json.dumps(as_json(result), indent=2, ensure_ascii=False)
    (out / "sensitivity.json").write_text(text + "\n", encoding="utf-8")
    (out / "sensitivity.md").write_text(markdown(result, [(name, example) for name, example, _ in maps]), "utf-8")
    template = files("theworld_train.evaluate.sensitivity").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    urls = {name: "data:image/png;base64," + base64.b64encode(png).decode() for name, png in pictures.items()}
    content = page.render(
        result=result,
        sentence=verdict(result.effects(), own=result.own_answers),
        rows=table(result),
        meaning=CHANGES,
        notes=notes(result),
        urls=urls,
        maps=[{"url": urls[name], "example": example} for name, example, _ in maps],
    )
    (out / "sensitivity.html").write_text(content, encoding="utf-8")


def as_json(result: Sensitivity) -> dict[str, Any]:
    """Plain values of everything but the pictures."""
    effects = result.effects()
    plain = asdict(result)
    for example in plain["examples"]:
        for one in example["maps"]:
            del one["picture"]
    attention = mean_attention(result)
    return {
        "verdict": verdict(effects, own=result.own_answers),
        "effects": {name: asdict(effect) for name, effect in effects.items()},
        "attention": None if attention is None else _attention_json(*attention),
        **plain,
    }


def table(result: Sensitivity) -> list[list[str]]:
    """A row for each change: name, mean change with its interval, size, answers."""
    return [
        [name, _signed(effect), f"{effect.size:.3f}", f"{effect.answers}"] for name, effect in result.effects().items()
    ]


def notes(result: Sensitivity) -> list[str]:
    """What has to be known to read the figures."""
    found = []
    if result.effects()["unchanged"].size != 0:
        found.append(
            "The same features give another likelihood: this device does not repeat itself, and no figure below "
            f"{result.effects()['unchanged'].size:.2g} nats means anything."
        )
    missing = [name for name in CHANGES if name not in result.effects()]
    if missing:
        found.append(
            f"Left out: {', '.join(missing)}. It needs a second example of another group whose features have the same "
            "shape."
        )
    if result.left_out:
        found.append(f"{result.left_out} examples show no picture or clip, and are left out.")
    if result.fusion == "gated":
        found.append(
            "The model adds world features to its image tokens (world_fusion 'gated'): there are no world tokens to "
            "attend to, and what answers take from the image holds the world's part."
        )
    attention = mean_attention(result)
    if attention is not None:
        mass, shares = attention
        parts = ", ".join(
            f"{name} {at:.1%} (of tokens {share:.1%})"
            for name, at, share in zip(KINDS, mass.mean(axis=0), shares, strict=True)
        )
        found.append(f"Attention of the places that foretell the answer, mean over layers: {parts}.")
    return found


def markdown(result: Sensitivity, maps: Sequence[tuple[str, Measured]]) -> str:
    """The same as the page, with links to the pictures."""
    lines = ["# What the world input is worth to the answers", ""]
    lines += [verdict(result.effects(), own=result.own_answers), ""]
    lines += ["| world input | change of the answer's log-probability, nats | either way | answers |"]
    lines += ["| --- | ---: | ---: | ---: |", *("| " + " | ".join(row) + " |" for row in table(result)), ""]
    lines += [*(f"- {name}: {meaning}" for name, meaning in CHANGES.items()), ""]
    lines += [
        *(f"- {note}" for note in notes(result)),
        "",
        "![changes](changes.png)",
        "",
        "![attention](attention.png)",
    ]
    for name, example in maps:
        lines += ["", f"{example.question} **{example.answer}**", "", f"![what each region is worth]({name})"]
    return "\n".join(lines) + "\n"


def _maps_of(result: Sensitivity) -> list[tuple[int, Measured, Map]]:
    return [(number, example, one) for number, example in enumerate(result.examples) for one in example.maps]


def _attention_json(mass: np.ndarray, shares: np.ndarray) -> dict[str, Any]:
    return {"kinds": list(KINDS), "layers": mass.tolist(), "share_of_tokens": shares.tolist()}


def _signed(effect: Effect) -> str:
    within = "" if effect.low is None else f" [{effect.low:+.3f}, {effect.high:+.3f}]"
    return f"{effect.mean:+.3f}{within}"


def _bars(result: Sensitivity) -> bytes:
    figure, axes = _figure(7, 2.6)
    for place, (name, effect) in enumerate(result.effects().items()):
        axes.barh(place, effect.mean, color="#2f6fb5" if name != "unchanged" else "#9aa4af")
        if effect.low is not None:
            axes.plot([effect.low, effect.high], [place, place], color="#1b1f24")
    axes.set_yticks(range(len(result.effects())), list(result.effects()))
    axes.invert_yaxis()
    axes.axvline(0, color="#1b1f24", linewidth=1)
    axes.set_xlabel("change of the answer's log-probability (nats)")
    return _png(figure)


def _layers(result: Sensitivity) -> bytes:
    figure, axes = _figure(7, 3)
    attention = mean_attention(result)
    if attention is not None:
        mass, _ = attention
        bottom = np.zeros(len(mass))
        for name, colour, values in zip(KINDS, ("#2f6fb5", "#d9822b", "#9aa4af", "#55a868"), mass.T, strict=True):
            axes.bar(range(len(mass)), values, bottom=bottom, label=name, color=colour, width=0.9)
            bottom += values
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.set(xlabel="layer", ylabel="attention of answers", ylim=(0, 1))
    return _png(figure)


def _overlay(one: Map) -> bytes:
    """The picture, and beside it the same with red where the answer leans on the world features, blue where it would be
    likelier without them."""
    from matplotlib.figure import Figure

    drops = np.asarray(one.drops)
    bound = max(float(np.abs(drops).max()), 1e-6)
    width, height = one.picture.size
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    plain, over = figure.subplots(1, 2)
    for axes in (plain, over):
        axes.imshow(one.picture, extent=(0, width, height, 0))
        axes.set_axis_off()
    shown = over.imshow(
        drops, extent=(0, width, height, 0), cmap="RdBu_r", vmin=-bound, vmax=bound, alpha=0.6, interpolation="nearest"
    )
    figure.colorbar(shown, ax=over, label="drop without the region (nats)")
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
