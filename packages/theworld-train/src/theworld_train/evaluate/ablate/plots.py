"""The plots of an ablation's report."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from theworld_train.evaluate.ablate.findings import Comparison
from theworld_train.pictures import plot_png

_COLOURS = {"better": "tab:green", "worse": "tab:red", "same": "tab:blue", "open": "tab:gray"}


def forest(comparisons: Sequence[Comparison]) -> bytes:
    """Each difference with its interval, and a dot for each seed; a panel for each kind of question, as PNG."""
    kinds = list(dict.fromkeys(one.kind for one in comparisons))
    names = list(dict.fromkeys(one.other for one in comparisons))
    figure = Figure(figsize=(4.2 * len(kinds) + 1.2, 0.34 * len(names) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for one in comparisons:
            if one.kind != kind:
                continue
            place, colour = names.index(one.other), _COLOURS[one.verdict]
            values = [100 * value for value in (one.found.difference, one.found.low, one.found.high)]
            axes.plot(values[1:], [place, place], color=colour, linewidth=2)
            axes.plot(values[:1], [place], "s", color=colour, markersize=6)
            seeds = [100 * value for value in one.by_seed.values()]
            axes.plot(seeds, [place + 0.28] * len(seeds), ".", color=colour, alpha=0.6, markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=kind, xlabel="points by which the reference is ahead")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return plot_png(figure)


def curves(losses: Mapping[str, Sequence[tuple[Sequence[int], Sequence[float]]]]) -> bytes:
    """Training losses of each arm, its seeds in one colour, as PNG."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, runs) in enumerate(losses.items()):
        for place, (steps, values) in enumerate(runs):
            style = {"color": f"C{number % 10}", "alpha": 0.8, "linewidth": 1}
            axes.plot(steps, values, label=name if place == 0 else None, **style)
    axes.set(xlabel="step", ylabel="loss (nats per supervised token)", yscale="log")
    axes.legend(fontsize="small", ncols=2)
    return plot_png(figure)
