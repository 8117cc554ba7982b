"""What the report says of results that are given: every number in its place, every finding for the right model."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from nnunetv2_mamba.evaluation.comparison import Comparison, Pair, Result, StructureComparison
from nnunetv2_mamba.evaluation.noise_floor import NoiseFloor, Spread, TrainingMean
from nnunetv2_mamba.evaluation.report.summary_tables import (
    Table,
    cost_table,
    latex,
    main_pairs,
    markdown,
    overview,
    per_structure,
    single_pairs,
)
from nnunetv2_mamba.evaluation.report.training_tables import noise_table, training_pairs
from nnunetv2_mamba.evaluation.report.unknowns import paragraphs
from nnunetv2_mamba.evaluation.report.wording import finding, findings, noise_finding, p_value, verdict, with_interval
from nnunetv2_mamba.evaluation.statistics import ALPHA
from nnunetv2_mamba.evaluation.training_tests import TrainingTest

NO_FLOOR = NoiseFloor((), {}, {}, None, None)
PAIR = Pair("A", "B", -0.0612, -0.0834, -0.0391, 0.0123, 0.0246, -0.85, 1, 2, 9)
OPEN = replace(PAIR, p=0.3, p_holm=0.6, rank_biserial=0.2, difference=0.001, low=-0.03, high=0.02)
RESULTS = (
    Result("A", 0.8123, 0.8011, 0.8230, 0, 1.75, 2, (0.25, 0.75)),
    Result("B", 0.8741, 0.8612, 0.8801, 3, 1.25, 1, (0.75, 0.25)),
)


def structure(metric="dice", name="mean over structures", results=RESULTS, pairs=(PAIR,), cases=12, noise=NO_FLOOR):
    values = pd.DataFrame({result.name: [0.5] * cases for result in results})
    return StructureComparison(metric, name, values, 0, tuple(results), tuple(pairs), noise)


def comparison(*structures, trainings=5):
    names = tuple(result.name for result in structures[0].results)
    metrics = tuple(dict.fromkeys(item.metric for item in structures))
    counts = dict.fromkeys(names, 1), dict.fromkeys(names, trainings)
    return Comparison(names, *counts, metrics, ("c",) * 12, ("x",), 0, structures, ())


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.00009, "< 0.0001"), (0.0001, "0.0001"), (0.04321, "0.0432"),
        (0.0999, "0.0999"), (0.1, "0.10"), (0.567, "0.57"), (1.0, "1.00"),
    ],
)  # fmt: skip
def test_p_values(p, text):
    assert p_value(p) == text


def test_an_interval_is_left_out_where_there_is_none():
    assert with_interval(0.81234, 0.80111, 0.82299, "dice") == "0.8123 [0.8011, 0.8230]"
    assert with_interval(1.234, math.nan, math.nan, "hd95") == "1.23"


def test_significant_means_at_most_five_percent_after_holm():
    assert ALPHA == 0.05
    for p, significant in ((0.0499, True), (0.05, True), (0.0501, False)):
        pair = replace(PAIR, p=0.0001, p_holm=p)
        assert pair.significant is significant
        assert (verdict(pair) == "no significant difference") is not significant


def test_the_verdict_names_the_place_of_the_better_model():
    assert (PAIR.better, verdict(PAIR)) == ("B", "second better")
    swapped = replace(PAIR, rank_biserial=0.85)
    assert (swapped.better, verdict(swapped)) == ("A", "first better")


def test_overview():
    hd95 = [replace(r, mean=10 * r.mean, low=10 * r.low, high=10 * r.high) for r in RESULTS]
    table = overview(comparison(structure(), structure(name="x"), structure("hd95", results=hd95)))
    assert table.head == (
        "model", "Dice, higher is better", "rank (first place)", "HD95 [mm], lower is better", "rank (first place)",
    )  # fmt: skip
    assert table.rows == (
        ("A", "0.8123 [0.8011, 0.8230]", "2 (25%)", "8.12 [8.01, 8.23]", "2 (25%)"),
        ("B", "0.8741 [0.8612, 0.8801], 3 failed", "1 (75%)", "8.74 [8.61, 8.80], 3 failed", "1 (75%)"),
    )
    assert table.bold == {(1, 1), (0, 3)}
    assert table.caption.startswith("Mean over structures: mean over 12 cases")
    fewer = overview(comparison(structure(cases=9), structure("nsd", cases=11)))  # of 12, of which some lack all
    assert fewer.caption.startswith("Mean over structures: mean over 9 to 11 cases")


def test_structures_are_rows_and_models_columns():
    table = per_structure(comparison(structure(), structure(name="tumour", cases=7)), "dice")
    assert table.head == ("structure", "cases", "A", "B")
    assert [row[:2] for row in table.rows] == [("mean over structures", "12"), ("tumour", "7")]
    assert table.rows[1][2:] == ("0.8123 [0.8011, 0.8230]", "0.8741 [0.8612, 0.8801], 3 failed")


def test_pairs_have_every_number_in_its_column_and_findings_are_bold():
    row = (
        "A", "B", "-0.0612 [-0.0834, -0.0391]", "0.0123", "0.0246", "-0.85", "1/2/9", "second better",
    )  # fmt: skip
    both = comparison(
        structure(pairs=(OPEN, PAIR)), structure(name="x", pairs=(PAIR,)), structure(name="y", pairs=(OPEN, PAIR))
    )
    main = main_pairs(both, "dice")
    assert main.rows[1] == row and main.rows[0][-1] == "no significant difference"
    assert main.head[-1] == "finding" and main.bold == {(1, 7)}
    assert "12 cases" in main.caption
    single = single_pairs(both, "dice")
    assert single.rows == (("x", *row), ("y", *main.rows[0]), ("y", *row))
    assert single.head == ("structure", *main.head) and single.bold == {(0, 8), (2, 8)}
    assert single_pairs(comparison(structure()), "dice") is None


def test_costs_as_rows():
    table = cost_table({"A": {"energy_joules": 1.2345, "parameters": 12.3456}, "B": {"parameters": 7.0}})
    assert table.head == ("model", "parameters [million]", "energy of a training [kWh]")
    assert table.rows == (("A", "12.3", "1.23"), ("B", "7", "unknown"))
    assert cost_table({"A": {}, "B": {}}) is None


A, B, C = (Result(name, mean, mean - 0.01, mean + 0.01, 0, 1.0, 1, (1.0,)) for name, mean in
           (("A", 0.5), ("B", 0.7), ("C", 0.6)))  # fmt: skip


def pair(first, second, effect, p_holm, low=-0.04, high=0.02):
    return replace(OPEN, first=first, second=second, rank_biserial=effect, p_holm=p_holm, low=low, high=high)


def test_a_finding_of_three_models():
    """B is better than A, as good as C as far as one knows."""
    pairs = (pair("A", "B", -0.9, 0.01), pair("A", "C", 0.5, 0.9), pair("B", "C", 0.3, 0.2, high=0.0567))
    assert finding(structure(results=(A, B, C), pairs=pairs)) == (
        "Dice, mean over structures, 12 cases: B has the highest mean, 0.7000 [0.6900, 0.7100]. How much trainings "
        "vary is not known. These trainings, on further cases: B is significantly better than A (adjusted p = 0.0100). "
        "No significant difference between B and C was found (adjusted p = 0.20; the intervals leave room for mean "
        "differences of up to 0.0567). In all, 1 of 3 pairs differ significantly."
    )


def test_a_finding_against_the_best_mean():
    """The lowest distance on average, yet worse in most cases."""
    pairs = (pair("A", "B", -0.9, 0.00001), pair("A", "C", -0.9, 0.04), pair("B", "C", 0.1, 0.8))
    text = finding(structure("hd95", results=(A, B, C), pairs=pairs))
    assert "HD95 [mm], mean over structures, 12 cases: A has the lowest mean, 0.50 [0.49, 0.51]." in text
    assert "the test speaks against A and for B (adjusted p < 0.0001) and C (adjusted p = 0.0400): look" in text
    assert "better than" not in text and "between A and" not in text
    assert text.endswith("In all, 2 of 3 pairs differ significantly.")


def test_a_finding_of_models_with_the_same_mean():
    results = (replace(B, name="A"), B, replace(B, name="C"))
    pairs = tuple(pair(*names, 0.0, p) for names, p in ((("A", "B"), 0.5), (("A", "C"), 0.25), (("B", "C"), 1.0)))
    assert finding(structure(results=results, pairs=pairs)) == (
        "Dice, mean over structures, 12 cases: A, B and C have the highest mean, 0.7000 [0.6900, 0.7100]. How much "
        "trainings vary is not known. These trainings, on further cases: No significant difference between any two "
        "models was found (smallest adjusted p = 0.25; the intervals leave room for mean differences of up to 0.0400)."
    )


def test_a_finding_without_intervals_and_of_one_pair():
    lonely = pair("A", "B", 0.0, 1.0, math.nan, math.nan)
    text = finding(structure(results=(A, B), pairs=(lonely,)))
    assert text.endswith("No significant difference between the two models was found (adjusted p = 1.00).")
    significant = finding(structure(results=(A, B), pairs=(pair("A", "B", -1.0, 0.01),)))
    assert significant.endswith("B is significantly better than A (adjusted p = 0.0100).")


def test_absence_is_spoken_of_only_where_something_was_not_found():
    found, open_ = structure(pairs=(PAIR,)), structure("nsd", pairs=(OPEN,))
    assert len(findings(comparison(found))) == 1
    assert len(findings(comparison(found, open_))) == 3


def test_markdown_and_latex():
    table = Table("Of 5 % [mm]", ("a|b", "c"), (("<x>", "1"), ("y_z", "2")), frozenset({(1, 0)}))
    assert markdown(table) == "| a\\|b | c |\n|---|---|\n| &lt;x&gt; | 1 |\n| **y\\_z** | 2 |\n\nOf 5 % \\[mm\\].\n"
    lines = latex(table).splitlines()
    assert lines[2] == r"\caption{Of 5 \% {[}mm].}" and lines[4] == r"\begin{tabular}{ll}"
    assert lines[6] == r"a\textbar{}b & c \\"
    assert lines[8:10] == [r"\textless{}x\textgreater{} & 1 \\", r"\textbf{y\_z} & 2 \\"]


FLOOR = NoiseFloor(
    (TrainingMean("A", 0, "fold_0", 0.81),), {"A": Spread(0.004, 2)}, {"A": Spread(0.01, 4), "B": Spread(0.02, 4)},
    Spread(0.004, 2), Spread(0.003, 4),
)  # fmt: skip
TEST = TrainingTest("A", "B", -0.06, -0.1, -0.02, "B", 0.012, 0.036, "folds", 5, 4.0)
LEVEL = TrainingTest("A", "C", -0.01, -0.04, 0.02, "C", 0.3, 0.6, "seeds", 1, 2.345)


def with_trainings():
    pairs = (replace(PAIR, trainings=TEST), replace(OPEN, second="C", trainings=LEVEL), replace(PAIR, first="C"))
    results = (*RESULTS, replace(RESULTS[0], name="C", mean=0.82))
    return structure(results=results, pairs=pairs, noise=FLOOR)


def test_a_finding_tells_noise_floor_networks_and_trainings_apart():
    assert finding(with_trainings()) == (
        "Dice, mean over structures, 12 cases: B has the highest mean, 0.8741 [0.8612, 0.8801]. Noise floor: standard "
        "deviation of the mean 0.00400 between seeds (2 df) and 0.00300 between folds (4 df); two trainings of the "
        "same network, if all vary alike, are less than 0.02434 apart 95 times in 100. A and B, C and B are further "
        "apart. The networks, trained again (5 folds and seeds of 1 fold): B is significantly better than A (adjusted "
        "p = 0.0360). In all, 1 of 2 pairs differ significantly. These trainings, on further cases: B is significantly "
        "better than A (adjusted p = 0.0246) and C (adjusted p = 0.0246). In all, 2 of 3 pairs differ significantly."
    )


def test_findings_over_trainings_speak_of_the_models_that_were_tested():
    """The best mean may be that of a single training; a pair says nothing of the others."""
    item = with_trainings()
    single = replace(item, pairs=(item.pairs[0], OPEN, replace(PAIR, first="C")))
    best = replace(single, results=(*item.results[:2], replace(item.results[2], mean=0.9)))
    assert "(5 folds): B is significantly better than A (adjusted p = 0.0360). These trainings" in finding(best)
    level = replace(OPEN, trainings=LEVEL)
    one = finding(replace(item, pairs=(PAIR, replace(level, second="C"), replace(PAIR, first="C"))))
    assert "(seeds of 1 fold): No significant difference between A and C was found (adjusted p = 0.60" in one
    two = [replace(level, trainings=replace(LEVEL, first=name)) for name in "AB"]
    assert "between A and C, nor B and C was found (smallest adjusted p" in finding(replace(item, pairs=(*two, OPEN)))
    many = finding(replace(item, pairs=(*two, *two, OPEN)))
    assert "of any of the 4 pairs, of 5, that have trainings to compare was found" in many


def test_what_trainings_did_not_show_is_not_said_to_be_absent():
    """Also where every test over cases has found something."""
    found = structure(pairs=(replace(PAIR, trainings=TEST),))
    assert len(findings(comparison(found))) == 1
    open_ = structure(pairs=(replace(PAIR, trainings=replace(TEST, p_holm=0.06)),))
    assert findings(comparison(open_))[1].startswith("A difference that is not significant is not shown to be absent")


def test_the_mean_over_trainings_is_what_may_exceed_the_limit():
    """0.02434: every fold counts the same in it, however many cases it has."""
    item = with_trainings()
    for over_cases, over_trainings, exceeds in ((0.06, -0.01, False), (0.01, -0.06, True), (0.01, 0.06, True)):
        test = replace(TEST, difference=over_trainings)
        assert item.exceeds(replace(PAIR, difference=over_cases, trainings=test)) is exceeds
    for over_cases in (0.06, -0.06):
        assert item.exceeds(replace(PAIR, difference=over_cases, trainings=None)) is True


@pytest.mark.parametrize(
    ("exceeding", "said"),
    [
        (0, "No two models are further apart."),
        (3, "A and B, A and B, A and B are further apart."),
        (4, "4 of 5 pairs are further apart."),
    ],
)
def test_pairs_beyond_the_limit_are_named_or_counted(exceeding, said):
    pairs = [replace(PAIR, difference=0.03 if number < exceeding else 0.02) for number in range(5)]
    assert noise_finding(structure(pairs=pairs, noise=FLOOR)).endswith(said)


def test_the_noise_floor_as_a_table():
    table = noise_table(comparison(with_trainings()))
    assert table.head == ("model", "trainings", "Dice: SD between seeds", "SD between folds", "limit")
    assert table.rows == (
        ("A", "5", "0.00400 (2 df)", "0.01000 (4 df)", "0.02434"),
        ("B", "5", "unknown", "0.02000 (4 df)", "unknown"),
        ("C", "5", "unknown", "unknown", "unknown"),
        ("all models", "15", "0.00400 (2 df)", "0.00300 (4 df)", "0.02434"),
    )
    assert noise_table(comparison(structure())) is None


def test_networks_that_vary_unlike_are_named_with_limits_of_their_own():
    """By t with 2 and with 3 degrees of freedom; the pooled limit stands for all."""
    seeds = {"B": Spread(0.0103, 2), "C": Spread(0.003, 2), "A": Spread(0.0008, 3)}
    item = replace(with_trainings(), noise=replace(FLOOR, seeds=seeds))
    assert "(4 df), 0.00080 (A) to 0.01030 (B) between seeds of single models; two trainings" in finding(item)
    assert [row[-1] for row in noise_table(comparison(item)).rows] == ["0.00360", "0.06267", "0.01825", "0.02434"]


def test_networks_in_pairs_as_a_table():
    table = training_pairs(comparison(with_trainings()), "dice")
    assert table.rows == (
        ("A", "B", "-0.0600 [-0.1000, -0.0200]", "5 folds, 4 df", "0.0120", "0.0360", "yes", "second better"),
        (
            "A", "C", "-0.0100 [-0.0400, 0.0200]", "seeds of 1 fold, 2.35 df", "0.30", "0.60", "no",
            "no significant difference",
        ),
    )  # fmt: skip
    assert table.bold == {(0, 7)} and len(table.head) == 8
    assert training_pairs(comparison(structure()), "dice") is None


def test_significant_single_trainings_are_warned_of():
    """Not where nothing is significant, nor where the model has several trainings."""
    warning = "A and B are single trainings: what is significant over cases holds for these trainings. One training per"
    assert findings(comparison(structure(), trainings=1))[1].startswith(warning)
    assert "networks apart; train several folds or seeds" in findings(comparison(structure(), trainings=1))[1]
    one = comparison(structure())
    one = replace(one, trainings={"A": 1, "B": 3})
    assert findings(one)[1].startswith("A is a single training:")
    for other in (comparison(structure()), comparison(structure(pairs=(OPEN,)), trainings=1)):
        assert not any("single training" in text for text in findings(other))


def test_what_is_not_known():
    costs = {"A": {"parameters": 1.0}, "B": {}}
    single = paragraphs(comparison(structure(), trainings=1), costs)
    assert single[0].startswith("How much trainings of A and B vary") and single[-1].startswith("What B cost")
    several = paragraphs(comparison(with_trainings()), {"A": {"parameters": 1.0}})
    assert "of which there is one" in several[0]
    assert not any("How much trainings" in text or "cost" in text for text in several)
