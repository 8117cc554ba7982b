"""The figures of the numbers. Each function draws one and returns it, with words that say the same (alt text)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...results.costs import COSTS, known_costs
from ...results.nnunet_log import CURVES
from ...text import first_few
from ..comparison import Result, StructureComparison
from ..metrics import METRICS
from .style import colour, marker, panels, wrapped
from .wording import p_value, with_interval

_MANY_POINTS = 4000  # from here on points are pixels in the vector files too


def paired_dots(items: Sequence[StructureComparison]) -> tuple[Figure, str]:
    """Draw every case as a line over the models, one panel per structure, with means and their intervals beside it."""
    names = list(items[0].values.columns)
    figure, axes = panels(len(items), 0.85 + 0.42 * len(names), sharey=True)
    pixels = sum(item.values.size for item in items) > _MANY_POINTS
    for panel, item in zip(axes, items, strict=True):
        values = item.values.to_numpy()
        places = np.arange(len(names))
        panel.plot(values.T, places, color="#b5b5b5", linewidth=0.4, zorder=1, rasterized=pixels)
        for place, result in enumerate(item.results):
            column = values[:, place]
            panel.scatter(
                column, np.full_like(column, place), s=9, color=colour(place), alpha=0.6, linewidths=0, zorder=2,
                rasterized=pixels,
            )  # fmt: skip
            panel.plot([result.low, result.high], [place + 0.3] * 2, color="black", linewidth=1.6, zorder=3)
            panel.plot(result.mean, place + 0.3, marker(place), color="black", markersize=4.5, zorder=4)
        _name_models(panel, names, item)
    return figure, _alt("Paired dot plots", items)


def boxes(items: Sequence[StructureComparison]) -> tuple[Figure, str]:
    """Draw median, quartiles and range of the cases, one panel per structure."""
    names = list(items[0].values.columns)
    figure, axes = panels(len(items), 0.85 + 0.34 * len(names), sharey=True)
    pixels = sum(item.values.size for item in items) > _MANY_POINTS
    for panel, item in zip(axes, items, strict=True):
        drawn = panel.boxplot(
            item.values.to_numpy(), positions=np.arange(len(names)), orientation="horizontal", widths=0.6,
            patch_artist=True, medianprops={"color": "black", "linewidth": 1.4},
            flierprops={"marker": ".", "markersize": 4, "rasterized": pixels},
        )  # fmt: skip
        for place, box in enumerate(drawn["boxes"]):
            box.set(facecolor=colour(place), alpha=0.75)
        _name_models(panel, names, item)
    return figure, _alt("Box plots", items)


def significance(items: Sequence[StructureComparison]) -> tuple[Figure, str]:
    """Draw who is significantly better than whom, one panel per structure, with Holm's p-values."""
    names = list(items[0].values.columns)
    figure, axes = panels(len(items), 3.3)
    colours = ListedColormap(["#f0b27a", "#eeeeee", "#85b8dd"])
    for panel, item in zip(axes, items, strict=True):
        cells = np.ma.masked_all((len(names), len(names)))
        for pair in item.pairs:
            first, second = names.index(pair.first), names.index(pair.second)
            won = 0 if not pair.significant else 1 if pair.better == pair.first else -1
            for row, column, sign in ((first, second, won), (second, first, -won)):
                cells[row, column] = sign
                word = {1: "better\n", 0: "", -1: "worse\n"}[sign]
                size = max(4.5, 8 - 0.4 * len(names))
                panel.text(column, row, word + p_value(pair.p_holm), ha="center", va="center", fontsize=size)
        panel.imshow(cells, cmap=colours, vmin=-1, vmax=1)
        numbers = [str(i + 1) for i in range(len(names))]
        panel.set_xticks(range(len(names)), numbers)
        panel.set_yticks(
            range(len(names)), [f"{wrapped(name, 22)} ({n})" for n, name in zip(numbers, names, strict=True)]
        )
        if not panel.get_subplotspec().is_first_col():
            panel.set_yticklabels(numbers)
        panel.set_title(wrapped(item.structure, 40))
        panel.set_box_aspect(1)
        panel.grid(False)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
    handles = [
        Patch(color="#85b8dd", label="row significantly better than column"),
        Patch(color="#eeeeee", label="no significant difference"),
        Patch(color="#f0b27a", label="row significantly worse"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    significant = [f"{pair.better} better in {pair.first} against {pair.second} on {item.structure}"
                   for item in items for pair in item.pairs if pair.significant]  # fmt: skip
    found = first_few(significant, 12, "; ") or "no significant difference"
    return figure, f"Matrix of adjusted p-values, {METRICS[items[0].metric].heading}: {found}."


def cost_versus_score(item: StructureComparison, costs: dict[str, dict[str, float]]) -> tuple[Figure, str]:
    """Draw the mean score of each model over each cost that is known.

    Args:
        costs: of ``results.costs.median_costs``, by model; one cost of one model at least.
    """
    known = known_costs(costs.values())
    figure, axes = panels(len(known), 3.0, sharey=True)
    for panel, key in zip(axes, known, strict=True):
        for place, result in enumerate(item.results):
            if key in costs[result.name]:
                panel.errorbar(
                    costs[result.name][key], result.mean, yerr=_bars(result), fmt=marker(place), color=colour(place),
                    markersize=6, capsize=3, linewidth=1.2,
                )  # fmt: skip
        values = [cost[key] for cost in costs.values() if key in cost]
        if min(values) > 0 and max(values) > 20 * min(values):
            panel.set_xscale("log")
        elif min(values) >= 0:
            panel.set_xlim(0, 1.12 * max(values) or 1)
        panel.set_xlabel(COSTS[key][0])
        if panel.get_subplotspec().is_first_col():
            panel.set_ylabel(f"{METRICS[item.metric].heading}, {item.structure}")
    _legend(figure, [result.name for result in item.results])
    points = [
        f"{result.name}: {METRICS[item.metric].number(result.mean)} at "
        + ", ".join(f"{COSTS[key][0]} {costs[result.name][key]:.3g}" for key in known if key in costs[result.name])
        for result in item.results
        if costs[result.name]
    ]
    return figure, f"{METRICS[item.metric].heading} against cost. {'; '.join(points)}."


def learning_curves(curves: dict[str, dict[str, list[dict[int, float]]]]) -> tuple[Figure, str] | None:
    """Draw each fold thin and their mean thick; None where no model has a training log.

    Args:
        curves: by model, by name in ``nnunet_log.CURVES``: the mean over folds, then each fold.
    """
    if not any(curve for named in curves.values() for found in named.values() for curve in found):
        return None
    figure, axes = panels(len(CURVES), 3.0)
    for panel, (key, curve) in zip(axes, CURVES.items(), strict=True):
        for place, named in enumerate(curves.values()):
            mean, *folds = named[key]
            for fold in folds if len(folds) > 1 else []:
                panel.plot(fold.keys(), fold.values(), color=colour(place), linewidth=0.5, alpha=0.5)
            shape = marker(place) if len(mean) <= 30 else None
            panel.plot(mean.keys(), mean.values(), color=colour(place), linewidth=1.6, marker=shape, markersize=3.5)
        panel.set_title(curve.title)
        panel.set_xlabel("epoch")
    _legend(figure, list(curves))
    ends = [
        f"{name} ends at {list(named['dice'][0].values())[-1]:.3f} after {len(named['dice'][0])} epochs"
        for name, named in curves.items()
        if named["dice"][0]
    ]
    return figure, f"Learning curves; validation Dice of patches: {'; '.join(ends)}."


def _name_models(panel: Axes, names: list[str], item: StructureComparison) -> None:
    panel.set_yticks(range(len(names)), [wrapped(name) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_title(wrapped(item.structure, 40))
    panel.set_xlabel(f"{METRICS[item.metric].heading} ({METRICS[item.metric].direction})")
    panel.grid(False, axis="y")


def _bars(result: Result) -> list[list[float]] | None:
    if np.isnan(result.low):
        return None
    return [[max(0.0, result.mean - result.low)], [max(0.0, result.high - result.mean)]]  # equal but for rounding


def _legend(figure: Figure, names: list[str]) -> None:
    handles = [
        Line2D([], [], color=colour(place), marker=marker(place), linewidth=1.6, label=name)
        for place, name in enumerate(names)
    ]
    columns = max(1, min(len(names), 130 // (max(map(len, names)) + 6)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _alt(kind: str, items: Sequence[StructureComparison]) -> str:
    first = items[0]
    means = "; ".join(
        f"{result.name} {with_interval(result.mean, result.low, result.high, first.metric)}" for result in first.results
    )
    many = f" One panel for each of {len(items)}: {', '.join(item.structure for item in items)}." if items[1:] else ""
    metric = METRICS[first.metric]
    title = f"{kind} of {metric.heading} ({metric.direction}), {len(first.values)} cases."
    return f"{title}{many} Means, {first.structure}: {means}."
