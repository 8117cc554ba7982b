"""The results as Markdown: what ran, the figures promised, and a table for each section."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .context import NEEDS_CUDA
from .targets import against_targets

LONGEST_ERROR = 12  # lines of a traceback


def summary(report: dict[str, Any]) -> str:
    """Return the whole report of ``runner.Suite.report`` as Markdown."""
    sections = report["sections"]
    machine = "the GPU" if report["device"] == "cuda" else "a CPU (a dry run on tiny sizes: no figure means anything)"
    parts = [f"# GPU suite, {report['date']}, on {machine}"]
    packed = report.get("packed")
    if packed:
        changed = " with changes" if packed["changed"] else ""
        parts.append(f"Commit {packed['commit']}{changed}, packed {packed['date']}.")
    if report.get("stopped"):
        parts.append(f"**Stopped:** {report['stopped']}")
    columns = ("title", "status", "seconds", "limit s")
    parts.append(table([{key: section[key] for key in columns} for section in sections]))
    rows = {section["section"]: section["rows"] for section in sections}
    if {"speed", "training", "rival"} & rows.keys():
        parts += ["## Figures promised", table(against_targets(rows))]
    for section in sections:
        parts += [f"## {section['title']}", *_of_section(section)]
    return "\n\n".join(parts) + "\n"


def _of_section(section: dict[str, Any]) -> Iterable[str]:
    if section["rows"]:
        yield table(section["rows"])
    if section[NEEDS_CUDA]:
        yield f"Needs CUDA: {'; '.join(section[NEEDS_CUDA])}."
    for reason in section["not possible here"]:
        yield f"Not possible here: {reason}"
    for job, error in section["errors"].items():
        text = "\n".join(error.strip().splitlines()[-LONGEST_ERROR:])
        yield f"{job}:\n\n```\n{text}\n```"


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table; the columns are the keys in the order in which they come up."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[_shown(row.get(column)) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *lines])


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**NO**"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
