"""What a comparison does not show, said of the comparison at hand."""

from __future__ import annotations

from ...text import joined_by_and
from ..comparison import Comparison


def paragraphs(comparison: Comparison, costs: dict[str, dict[str, float]]) -> list[str]:
    """Write what stays unknown: from the trainings and folds that there are, the tests, and the costs."""
    single = [name for name, count in comparison.trainings.items() if count == 1]
    tests = [test for item in comparison.overall for test in item.tests_of_trainings]
    texts = []
    if single:
        texts.append(
            f"How much trainings of {joined_by_and(single)} vary: one training per model cannot tell networks apart, "
            "however many cases it is tried on."
        )
    if sets := max((test.n_folds for test in tests if test.over == "seeds"), default=0):
        texts.append(
            "What other training sets would give: tests over seeds speak of the training sets at hand, of which there "
            f"{'is one' if sets == 1 else f'are {sets}'}."
        )
    texts.append(
        "What another data set, or another draw of this one, would give. Folds share training cases, so their spread "
        "does not hold what all of them owe to this data set; from one data set that cannot be estimated (Bengio and "
        "Grandvalet 2004)."
    )
    texts.append(
        "Whether models are equal: a difference that is not significant, or not above the noise floor, is not shown to "
        "be absent. The interval says how large it may still be."
    )
    if unmeasured := [name for name, cost in costs.items() if not cost]:
        texts.append(f"What {joined_by_and(unmeasured)} cost: no cost.json beside the folds.")
    return texts
