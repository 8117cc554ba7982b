"""The tables of a comparison as rows of text, and these as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...results.costs import COSTS, known_costs
from ...text import printable
from ..comparison import Comparison, Result, StructureComparison
from ..metrics import METRICS
from .wording import p_value, verdict, with_interval


@dataclass(frozen=True)
class Table:
    """Cells are unescaped text; ``bold`` holds (row, column) of what stands out."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()


def overview(comparison: Comparison) -> Table:
    """Make a table of models x metrics: mean with its interval, rank; the best mean of a metric is bold."""
    head, columns, bold = ["model"], [list(comparison.names)], set()
    items = comparison.overall
    for item in items:
        metric = METRICS[item.metric]
        head += [f"{metric.heading}, {metric.direction}", "rank (first place)"]
        columns.append([_mean(result, item.metric) for result in item.results])
        columns.append([f"{result.rank} ({result.rank_shares[0]:.0%})" for result in item.results])
        best = (min if metric.lower_is_better else max)(result.mean for result in item.results)
        bold |= {(row, len(columns) - 2) for row, result in enumerate(item.results) if result.mean == best}
    counts = sorted({len(item.values) for item in items})  # without those that lack all structures
    cases = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"
    caption = (
        f"{items[0].structure.capitalize() if items else 'Nothing'}: mean over {cases} cases with its "
        "95 % confidence interval (bootstrap, BCa); rank (each case ranks the models, then the mean ranks are ranked) "
        "and the share of bootstrap samples in which the model is first. Bold: best mean, which need not be a "
        "significant difference"
    )
    return Table(caption, tuple(head), tuple(zip(*columns, strict=True)), frozenset(bold))


def per_structure(comparison: Comparison, metric: str) -> Table:
    """Make a table of structures x models: mean with its interval."""
    items = comparison.of(metric)
    rows = [
        (item.structure, str(len(item.values)), *(_mean(result, item.metric) for result in item.results))
        for item in items
    ]
    caption = f"{METRICS[metric].heading} ({METRICS[metric].direction}): mean with its 95 % confidence interval"
    return Table(caption, ("structure", "cases", *comparison.names), tuple(rows))


def main_pairs(comparison: Comparison, metric: str) -> Table:
    """List all pairs of models on the mean over structures, or on the only structure."""
    item = comparison.of(metric)[0]
    caption = (
        f"{METRICS[metric].heading}, {item.structure}, {len(item.values)} cases, these trainings: on further cases of "
        "this kind. Mean difference with its 95 % confidence interval, Wilcoxon's p, the same adjusted by Holm, "
        "rank-biserial effect size and cases won by the first model"
    )
    return Table(caption, _PAIR_HEAD, *_pair_rows(item))


def single_pairs(comparison: Comparison, metric: str) -> Table | None:
    """List all pairs of models on every structure; None where there is only one."""
    rows, bold = [], set()
    for item in comparison.of(metric)[1:]:
        own, strong = _pair_rows(item)
        bold |= {(len(rows) + row, column + 1) for row, column in strong}
        rows += [(item.structure, *row) for row in own]
    caption = f"{METRICS[metric].heading}: all pairs of models on each structure, over cases"
    return Table(caption, ("structure", *_PAIR_HEAD), tuple(rows), frozenset(bold)) if rows else None


_PAIR_HEAD = ("first", "second", "first - second", "p", "p (Holm)", "effect", "wins/ties/losses", "finding")


def _pair_rows(item: StructureComparison) -> tuple[tuple[tuple[str, ...], ...], frozenset[tuple[int, int]]]:
    rows = tuple(
        (
            pair.first,
            pair.second,
            with_interval(pair.difference, pair.low, pair.high, item.metric),
            p_value(pair.p),
            p_value(pair.p_holm),
            f"{pair.rank_biserial:+.2f}",
            f"{pair.wins}/{pair.ties}/{pair.losses}",
            verdict(pair),
        )
        for pair in item.pairs
    )
    last = len(_PAIR_HEAD) - 1
    return rows, frozenset((row, last) for row, pair in enumerate(item.pairs) if pair.significant)


def cost_table(costs: dict[str, dict[str, float]]) -> Table | None:
    """Make a table of models x costs, or None if none is known."""
    known = known_costs(costs.values())
    if not known:
        return None
    rows = [
        (name, *(f"{cost[key]:.3g}" if key in cost else "unknown" for key in known)) for name, cost in costs.items()
    ]
    return Table(
        "Cost of one training: median over its folds", ("model", *(COSTS[key][0] for key in known)), tuple(rows)
    )


def markdown(table: Table) -> str:
    head, *rows = (f"| {' | '.join(cells)} |" for cells in _cells(table, _for_markdown, "**{}**"))
    return "\n".join([head, "|---" * len(table.head) + "|", *rows, "", f"{_for_markdown(table.caption)}.", ""])


def latex(table: Table) -> str:
    """Write a table for the packages booktabs and graphicx."""
    head, *rows = (" & ".join(cells) + r" \\" for cells in _cells(table, for_latex, r"\textbf{{{}}}"))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{for_latex(table.caption)}.}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(table.head)}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cells(table: Table, escape: Callable[[str], str], bold: str) -> Iterator[list[str]]:
    """Escape the head and the rows; ``bold`` is a format."""
    yield [escape(text) for text in table.head]
    for i, row in enumerate(table.rows):
        yield [bold.format(escape(text)) if (i, j) in table.bold else escape(text) for j, text in enumerate(row)]


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # after \\ it would be a length
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def for_latex(text: str) -> str:
    """Escape a text, in which nothing is then a command; line breaks become spaces."""
    return "".join(_LATEX.get(sign, sign) for sign in printable(" ".join(text.split())))


def _for_markdown(text: str) -> str:
    """Escape a text, in which nothing is then a tag, a link or a column."""
    text = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in r"\`*_[]|" else sign for sign in text)


def _mean(result: Result, metric: str) -> str:
    failures = f", {result.failures} failed" if result.failures else ""
    return with_interval(result.mean, result.low, result.high, metric) + failures
