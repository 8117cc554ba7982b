"""How often tests call a network significantly different from itself, trained again with other seeds.

    python benchmarks/null_experiment.py

Scores are simulated: difficulty of the case, the same for both models; effect of the training (fold x seed); the
rest. Per repetition one comparison of two models as ``nnunetv2_mamba compare`` makes it, without a difference (level)
and with one of three standard deviations of the training (power). Last, two unlike networks with the same mean: the
one varies ten times as much between trainings as the other, with and without cases of its own that each is better at.
Beside the tests of ``compare`` stand two others that are often advised: a bootstrap over trainings, then cases, and a
Wald test of MixedLM of statsmodels, which the extra [dev] brings; not for the unlike networks, as they fail with
others already. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from statsmodels.regression.mixed_linear_model import MixedLM

from nnunetv2_mamba.evaluation.statistics import ALPHA, paired_test
from nnunetv2_mamba.evaluation.training_statistics import over_folds, over_seeds

# Of each fold the number of seeds, the same for both models
DESIGNS = {
    "5 folds, 1 seed": (1, 1, 1, 1, 1),
    "1 fold, 3 seeds": (3,),
    "5 folds, 1 seed, and 2 more on fold 0": (3, 1, 1, 1, 1),
    "1 fold, 5 seeds": (5,),
    "1 fold, 2 seeds": (2,),
    "2 folds, 3 seeds": (3, 3),
}


class Spread(NamedTuple):
    """Standard deviations of the Dice: of the trainings of the two models, and of what each model adds to a case."""

    first: float
    second: float
    own_cases: float = 0.0

    @property
    def of_a_training(self) -> float:
        """Root mean square of both models."""
        return float(np.hypot(self.first, self.second) / np.sqrt(2))


UNLIKE = Spread(0.008, 0.0008, own_cases=0.01)  # between seeds: U-Mamba Bot and MSD-KMamba of docs/results.md
SPREADS = (*(Spread(sd, sd) for sd in (0.003, 0.005, 0.01)), UNLIKE, UNLIKE._replace(own_cases=0.0))
CASES = 40  # of a fold
CASE_SD, REST_SD = 0.03, 0.01  # Dice
EFFECT = 3  # times the standard deviation of the training
RESAMPLES = 999

Fold = tuple[np.ndarray, np.ndarray]  # of two models, (repetitions, cases, seeds)


def simulate(
    design: Sequence[int], repetitions: int, difference: float, spread: Spread, rng: np.random.Generator
) -> list[Fold]:
    """Draw the scores of two models that differ by ``difference`` in the mean."""
    folds = []
    for seeds in design:
        difficulty = 0.85 + rng.normal(0, CASE_SD, (repetitions, CASES, 1))
        first, second = (
            difficulty
            + (rng.normal(0, spread.own_cases, (repetitions, CASES, 1)) if spread.own_cases else 0)
            + rng.normal(0, training_sd, (repetitions, 1, seeds))
            + rng.normal(0, REST_SD, (repetitions, CASES, seeds))
            for training_sd in (spread.first, spread.second)
        )
        folds.append((first + difference, second))
    return folds


def p_over_trainings(folds: list[Fold]) -> np.ndarray:
    """Test as ``compare`` does with these designs; (repetitions,)."""
    if len(folds) < 3 and min(first.shape[-1] for first, _ in folds) > 1:
        return over_seeds(folds).p
    means = [[values.mean((-2, -1)) for values in fold] for fold in folds]
    return over_folds(np.stack([first - second for first, second in means], axis=-1)).p


def p_over_cases(folds: list[Fold]) -> np.ndarray:
    """Test by Wilcoxon's signed ranks of the cases, seeds averaged within each."""
    differences = np.concatenate([first.mean(-1) - second.mean(-1) for first, second in folds], axis=-1)
    return np.array([paired_test(own)[0] for own in differences])


def p_of_bootstrap(folds: list[Fold], rng: np.random.Generator) -> np.ndarray:
    """Resample trainings (folds, or the pairs of seeds of a single fold), then their cases; percentiles."""
    if len(folds) == 1:
        differences = np.moveaxis(folds[0][0] - folds[0][1], -1, 1)
    else:
        differences = np.stack([first.mean(-1) - second.mean(-1) for first, second in folds], axis=1)
    _, trainings, cases = differences.shape
    found = []
    for own in differences:
        chosen = rng.integers(trainings, size=(RESAMPLES, trainings, 1))
        means = own[chosen, rng.integers(cases, size=(RESAMPLES, trainings, cases))].mean((-2, -1))
        found.append(2 * min((means <= 0).mean(), (means >= 0).mean()))
    return np.array(found)


def p_of_mixed_model(folds: list[Fold]) -> np.ndarray:
    """Test the mean of the differences by MixedLM's Wald z, with the training as the random effect (REML)."""
    found = []
    for repetition in range(len(folds[0][0])):
        differences = [(first - second)[repetition] for first, second in folds]
        columns = [column for own in differences for column in own.T]
        trainings = np.repeat(np.arange(len(columns)), CASES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of variances estimated as 0
            fit = MixedLM(np.concatenate(columns), np.ones(len(trainings)), trainings).fit(reml=True)
        found.append(fit.pvalues[0])
    return np.array(found)


def experiment(spread: Spread, repetitions: int, slow: int, seed: int) -> list[dict]:
    """Count, for each design, in which share of the repetitions each test is significant; of slow ones in the first."""
    rows = []
    for design, seeds in DESIGNS.items():
        rng = np.random.default_rng(seed)
        same = simulate(seeds, repetitions, 0.0, spread, rng)
        different = simulate(seeds, repetitions, EFFECT * spread.of_a_training, spread, rng)
        first = [(one[:slow], other[:slow]) for one, other in same]
        p_values = {"over trainings": p_over_trainings(same)}
        if spread.first == spread.second:
            p_values |= {
                "over cases (Wilcoxon)": p_over_cases(first),
                "bootstrap of trainings, then cases": p_of_bootstrap(first, rng),
                "mixed model, Wald z": p_of_mixed_model(first),
            }
        p_values[f"over trainings, a difference of {EFFECT} SD"] = p_over_trainings(different)
        shares = {name: float((p <= ALPHA).mean()) for name, p in p_values.items()}
        rows.append({"design": design, **spread._asdict(), **shares})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10_000, help="of the tests over trainings")
    parser.add_argument("--slow", type=int, default=400, help="repetitions of the others")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "null_experiment.json")
    args = parser.parse_args()
    rows = [row for spread in SPREADS for row in experiment(spread, args.repetitions, args.slow, args.seed)]
    given = ("design", *Spread._fields)
    print("| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|", sep="\n")
    for row in rows:
        shares = [f"{row[key]:.1%}" if key in row else "" for key in rows[0] if key not in given]
        print(f"| {' | '.join([*(str(row[key]) for key in given), *shares])} |")
    result = {
        "repetitions_over_trainings": args.repetitions,
        "repetitions_of_the_others": args.slow,
        "seed": args.seed,
        "cases_of_a_fold": CASES,
        "case_sd": CASE_SD,
        "rest_sd": REST_SD,
        "rows": rows,
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
