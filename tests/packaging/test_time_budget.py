import math
import time

import layouts
import numpy as np
import pytest
import SimpleITK
import torch
from clock import Clock

from nnunetv2_mamba.packaging.case_predictor import CasePredictor
from nnunetv2_mamba.packaging.inference_settings import Choices
from nnunetv2_mamba.packaging.time_budget import MARGIN, Effort, Guard, ladder


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_order_of_giving_up():
    assert ladder(Effort(5, True, 0.5)) == [
        Effort(5, True, 0.5),
        Effort(5, False, 0.5),
        Effort(1, False, 0.5),
        Effort(1, False, 0.75),
        Effort(1, False, 1.0),
    ]


def test_models_are_given_up_first():
    asked = Effort(5, True, 0.5, models=3)
    assert ladder(asked)[:4] == [asked, Effort(5, True, 0.5, 2), Effort(5, True, 0.5, 1), Effort(5, False, 0.5, 1)]
    assert ladder(asked)[-1] == Effort(1, False, 1.0, 1)


def test_what_is_given_up_is_said():
    asked = Effort(5, True, 0.5, models=3)
    assert str(asked) == "3 models, 5 fold(s), mirroring, step size 0.5"
    assert asked.given_up(asked) == ""
    assert Effort(5, True, 0.5, models=2).given_up(asked) == "1 of 3 models"
    assert Effort(1, False, 1.0).given_up(asked) == "2 of 3 models, mirroring, 4 of 5 folds and overlap of tiles"


@pytest.mark.parametrize("step_size", [0.3, 0.75, 0.9, 1.0])
def test_no_rung_is_dearer_than_the_one_before(step_size):
    plans = ladder(Effort(1, False, step_size))
    sizes = [plan.step_size for plan in plans]
    assert plans[0] == Effort(1, False, step_size)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 1


PASSES = {Effort(1, True, 0.5): 80, Effort(1, False, 0.5): 10, Effort(1, False, 0.75): 6, Effort(1, False, 1.0): 2}


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        (82 * MARGIN, Effort(1, True, 0.5)),
        (82 * MARGIN - 0.1, Effort(1, False, 0.5)),
        (12 * MARGIN, Effort(1, False, 0.5)),
        (12 * MARGIN - 0.1, Effort(1, False, 0.75)),
        (0.5, Effort(1, False, 1.0)),
        (-3.0, Effort(1, False, 1.0)),
    ],
)
def test_the_first_plan_that_fits_is_chosen(clock, seconds, chosen):
    guard = Guard(clock.now + seconds, clock)
    guard.record(2.0, passes=2)
    assert guard.choose(list(PASSES), PASSES.__getitem__) == chosen


def test_tiles_run_only_while_there_is_time_for_the_fallback(clock):
    guard = Guard(clock.now + 10, clock)
    guard.record(1.0, passes=1)
    guard.open(reserved=4)  # 5 seconds with the margin
    tiles = [guard.run(lambda: clock.work(1.0), passes=1) for _ in range(8)]
    assert tiles == ["done"] * 5 + [None] * 3
    assert guard.closed
    guard.open(reserved=0)
    assert [guard.run(lambda: clock.work(1.0), passes=1) for _ in range(6)] == ["done"] * 5 + [None]


def test_tiles_that_get_slower_close_the_guard_before_the_deadline(clock):
    deadline = clock.now + 20
    guard = Guard(deadline, clock)
    guard.record(1.0, passes=1)
    guard.open(reserved=0)
    seconds = iter([1, 2, 4, 5, 5, 5, 5])
    while guard.run(lambda: clock.work(next(seconds)), passes=1):
        pass
    assert clock.now <= deadline


@pytest.fixture
def timed(trained_model, clock, monkeypatch):
    """A predictor with a time budget whose passes take the time that ``pace`` says, and nothing else takes any."""

    def make(budget: float, pace):
        predictor = CasePredictor(trained_model.folder, Choices(("0", "1"), time_budget=budget), "cpu", clock)
        forward = predictor.model.network.forward
        passes = iter(range(10_000))

        def slow_forward(x: torch.Tensor) -> torch.Tensor:
            clock.work(pace(next(passes)))
            return forward(x)

        monkeypatch.setattr(predictor.model.network, "forward", slow_forward)
        return predictor

    return make


def segment(predictor, trained_model, clock):
    start = clock.now
    result = predictor.segment(trained_model.cases["case_0"])
    return result, clock.now - start


def test_a_large_budget_changes_nothing(timed, trained_model, clock):
    result, _ = segment(timed(10_000, lambda number: 1.0), trained_model, clock)
    assert result.complete
    assert result.how == "2 fold(s), mirroring, step size 0.5"


def test_a_small_budget_is_kept_by_giving_up_mirroring(timed, trained_model, clock):
    result, seconds = segment(timed(10, lambda number: 1.0), trained_model, clock)
    assert result.complete
    assert "no mirroring" in result.how
    assert result.how.endswith("; given up for the time: mirroring")
    assert seconds <= 10


def test_a_machine_that_gets_slower_falls_back_in_time(timed, trained_model, clock):
    pace = lambda number: 1.0 if number < 4 else 2.5  # noqa: E731
    result, seconds = segment(timed(14, pace), trained_model, clock)
    assert "took too long" in result.how
    assert seconds <= 14


def test_a_budget_that_is_too_small_is_said(timed, trained_model, clock):
    result, seconds = segment(timed(2.5, lambda number: 1.0), trained_model, clock)
    assert not result.complete
    assert seconds <= 2.5


def test_no_pass_is_run_when_there_is_no_time_for_one(timed, trained_model, clock):
    """The first pass of all, which may compile, takes its time from the budget of the first case, before its images."""
    predictor = timed(6, lambda number: 4.0 if number == 0 else 1.0)
    begin = clock.now
    predictor.warm_up()
    late = predictor.segment(trained_model.cases["case_0"], started=begin)
    assert not late.complete
    assert clock.now - begin == 4  # 2 seconds are left, less than the only pass took
    begin = clock.now
    assert not predictor.segment(trained_model.cases["case_0"], started=begin - 10).complete
    assert clock.now == begin
    assert predictor.segment(trained_model.cases["case_0"]).complete  # with 6 seconds a pass is timed anew
    assert clock.now - begin <= 6


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ValueError, match="time_budget must be above 0"):
        Choices(time_budget=budget)


@pytest.mark.slow
def test_a_real_clock(trained_model, tmp_path):
    """Budgets of a half, of once and twice the time that it takes without one; with room for a busy machine."""
    files = [tmp_path / file.name for file in trained_model.cases["case_0"]]
    for file, source in zip(files, trained_model.cases["case_0"], strict=True):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.tile(layouts.voxels(source), (2, 2, 1))), file)

    def seconds(budget: float | None) -> tuple:
        predictor = CasePredictor(trained_model.folder, Choices(("0", "1"), time_budget=budget), "cpu")
        predictor.warm_up()
        begin = time.perf_counter()
        result = predictor.segment(files)
        return result, time.perf_counter() - begin

    _, unlimited = seconds(None)
    for share in (0.5, 1, 2):
        result, taken = seconds(share * unlimited)
        assert taken <= (share + 0.5) * unlimited, result.how
        assert result.complete or share < 2, result.how
        assert share > 0.5 or "no mirroring" in result.how
