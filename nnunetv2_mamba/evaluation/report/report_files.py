"""Everything that ``compare`` leaves: the HTML report, figures, tables, values and the methods paragraph."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

from ...files import written_whole
from ...results.costs import median_costs
from ...results.nnunet_log import CURVES
from ...results.trained_model import curves_of_folds, mean_curve
from ...text import as_cell, printable
from ..comparison import Comparison
from ..evaluated_model import Repetitions
from ..metrics import METRICS
from . import figures, methods, summary_tables, training_tables, unknowns
from .case_images import section_of_cases
from .html import Illustration, Section, picture, render
from .style import style
from .wording import findings

_PAIRED = (
    "Every dot is a case, every line connects the same case over the models. Black: mean and its 95 % confidence "
    "interval."
)
_BOXES = "Box: median and quartiles; whiskers: the furthest cases within 1.5 times the box's length; dots: the others."
_MATRIX = (
    "These trainings, on further cases: p-values of Wilcoxon's signed-rank test, adjusted by Holm's method. Numbers "
    "below stand for the rows' models."
)
_COST = "Mean and its 95 % confidence interval; costs as in the table."
_CURVES = (
    "Means over the folds that have reached an epoch; thin: the folds, means of their seeds. Dice of random patches, "
    "not of cases."
)
# All figures that there may be
_FIGURE = re.compile(
    rf"((paired|boxes|significance)_({'|'.join(METRICS)})|cost|curves|case_(worst|median|best))\.(png|pdf)"
)


def make_files(
    comparison: Comparison, models: Repetitions, images: Path | None = None, references: Path | None = None
) -> dict[str, bytes]:
    """Make what goes into the files, by their names in the output; the report is the last.

    Args:
        images, references: as for ``case_images.section_of_cases``.
    """
    cost = {name: median_costs(fold.cost for model in own for fold in model.folds) for name, own in models.items()}
    texts = methods.paragraphs(comparison, models)
    content = comparison.as_dict() | {"findings": findings(comparison), "costs": cost}
    with style():
        numbers = [
            _noise_floor(comparison),
            _differences(comparison),
            _cost(comparison, cost),
            Section("What we do not know", tuple(unknowns.paragraphs(comparison, cost))),
            *(_of_metric(comparison, item.metric) for item in comparison.overall),
        ]
        sections = [
            *numbers,
            _curves(models),
            section_of_cases(comparison, models, images, references),
            Section("Methods", tuple(texts), (methods.model_table(comparison, models),)),
            Section("References", methods.REFERENCES),
        ]
        figure_files = {
            f"figures/{illustration.name}.{ending}": picture(illustration.figure, ending)
            for section in sections
            for illustration in section.illustrations
            for ending in ("png", "pdf")
        }
        datasets = {model.dataset for own in models.values() for model in own if model.dataset}
        where = f" on {', '.join(sorted(datasets))}" if datasets else ""
        lead = (
            f"{len(comparison.cases)} cases, {len(comparison.labels)} "
            f"{'structure' if len(comparison.labels) == 1 else 'structures'}; models: {', '.join(comparison.names)}. "
            f"Written by nnunetv2_mamba compare on {date.today().isoformat()}."
        )
        title = f"Comparison of {len(comparison.names)} segmentation models{where}"
        report = render(title, lead, content["findings"], list(comparison.notes), sections)
    tables = [table for section in numbers for table in section.tables]
    written = {
        "comparison.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "values.csv": values_csv(comparison),
        "table.md": "\n".join(map(summary_tables.markdown, tables)),
        "table.tex": "\n".join(map(summary_tables.latex, tables)),
        "methods.txt": "\n\n".join(map(printable, [*texts, *methods.REFERENCES])) + "\n",
        "report.html": report,
    }
    return figure_files | {name: text.encode("utf-8") for name, text in written.items()}


def write_files(files: dict[str, bytes], output: Path) -> None:
    """Write into ``output``, over the files of an earlier comparison there; its other figures are removed.

    The report goes first and comes back last, so that it never stands beside the tables of another comparison.
    """
    (output / "figures").mkdir(parents=True, exist_ok=True)
    (output / "report.html").unlink(missing_ok=True)
    for figure in (output / "figures").iterdir():
        if _FIGURE.fullmatch(figure.name) and f"figures/{figure.name}" not in files:
            figure.unlink()
    for name, content in files.items():
        with written_whole(output / name) as temporary:
            temporary.write_bytes(content)


def values_csv(comparison: Comparison) -> str:
    """Write all values; names that a spreadsheet would take for formulas have an apostrophe before them."""
    values = comparison.values()
    values = values.assign(**{name: values[name].map(as_cell) for name in ("result", "structure", "case")})
    return values.to_csv(index=False, lineterminator="\n")


def _noise_floor(comparison: Comparison) -> Section:
    table = training_tables.noise_table(comparison)
    if table is None:
        return Section("Noise floor", ("Unknown: there are not several trainings of any model.",))
    return Section("Noise floor", tables=(table,))


def _differences(comparison: Comparison) -> Section:
    metrics = [item.metric for item in comparison.overall]
    of_networks = [training_tables.training_pairs(comparison, metric) for metric in metrics]
    of_trainings = [summary_tables.main_pairs(comparison, metric) for metric in metrics]
    tables = [summary_tables.overview(comparison), *filter(None, of_networks), *of_trainings]
    return Section("Differences", tables=tuple(tables))


def _of_metric(comparison: Comparison, metric: str) -> Section:
    items = comparison.of(metric)
    illustrations = []
    for name, draw, caption in (
        ("paired", figures.paired_dots, _PAIRED),
        ("boxes", figures.boxes, _BOXES),
        ("significance", figures.significance, _MATRIX),
    ):
        figure, alt = draw(items)
        illustrations.append(Illustration(f"{name}_{metric}", figure, caption, alt))
    single = summary_tables.single_pairs(comparison, metric)
    return Section(
        METRICS[metric].heading,
        tables=(summary_tables.per_structure(comparison, metric),),
        illustrations=tuple(illustrations),
        folded=() if single is None else (single,),
    )


def _cost(comparison: Comparison, cost: dict[str, dict[str, float]]) -> Section:
    table = summary_tables.cost_table(cost)
    if table is None:
        return Section(
            "Cost", ("No costs: the fold folders have no cost.json, which nnunetv2_mamba benchmark writes.",)
        )
    drawn = [figures.cost_versus_score(item, cost) for item in comparison.overall[:1]]
    return Section("Cost", (), (table,), tuple(Illustration("cost", figure, _COST, alt) for figure, alt in drawn))


def _curves(models: Repetitions) -> Section:
    curves: dict[str, dict[str, list[dict[int, float]]]] = {}
    for name, trainings in models.items():
        folds = {key: curves_of_folds(trainings, key) for key in CURVES}
        curves[name] = {key: [mean_curve(found), *found] for key, found in folds.items()}
    drawn = figures.learning_curves(curves)
    if drawn is None:
        return Section("Learning curves", ("No learning curves: there are no training logs beside the results.",))
    return Section("Learning curves", illustrations=(Illustration("curves", drawn[0], _CURVES, drawn[1]),))
