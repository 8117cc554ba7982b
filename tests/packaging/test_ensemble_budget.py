"""Several models within a time budget, on a clock that moves with the passes of their networks."""

import shutil

import layouts
import numpy as np
import pytest
import SimpleITK
import torch
from clock import Clock

from nnunetv2_mamba.packaging.case_predictor import CasePredictor
from nnunetv2_mamba.packaging.inference_settings import Choices, MemberChoices
from nnunetv2_mamba.packaging.member import Member

MEMBERS = (MemberChoices("first", ("0", "1")), MemberChoices("second", ("0",)))


@pytest.fixture(scope="module")
def folders(trained_model, tmp_path_factory):
    """The model, and the same with another order of labels, so that it says other ones."""
    other = shutil.copytree(trained_model.folder, tmp_path_factory.mktemp("other") / "model")
    for file in other.glob("fold_*/checkpoint_final.pth"):
        checkpoint = torch.load(file, weights_only=False)
        for key in ("weight", "bias"):
            (name,) = [each for each in checkpoint["network_weights"] if each.endswith(f"seg_layers.0.{key}")]
            checkpoint["network_weights"][name] = checkpoint["network_weights"][name].flip(0)
        torch.save(checkpoint, file)
    return [trained_model.folder, other]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(folders, clock, monkeypatch):
    """A predictor of both whose passes take the time that ``pace`` says of a model and the number of its pass."""

    def make(budget, pace):
        predictor = CasePredictor(folders, Choices(members=MEMBERS, time_budget=budget), "cpu", clock)
        network = type(predictor.model.network)
        forward, passes = network.forward, [0, 0]

        def slow_forward(self, x):
            model = 0 if self is predictor.model.network else 1
            passes[model] += 1
            clock.work(pace(model, passes[model]))
            return forward(self, x)

        monkeypatch.setattr(network, "forward", slow_forward)
        return predictor

    return make


@pytest.fixture(scope="module")
def files(trained_model, tmp_path_factory):
    """A case of several tiles."""
    folder = tmp_path_factory.mktemp("images")
    files = [folder / file.name for file in trained_model.cases["case_0"]]
    for file, source in zip(files, trained_model.cases["case_0"], strict=True):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.tile(layouts.voxels(source), (1, 1, 2))), file)
    return files


def segment(predictor, files, clock):
    start = clock.now
    result = predictor.segment(files)
    return result, SimpleITK.GetArrayFromImage(result.image), clock.now - start


@pytest.fixture(scope="module")
def both(folders, files):
    """Labels of the mean, without a budget."""
    return SimpleITK.GetArrayFromImage(CasePredictor(folders, Choices(members=MEMBERS), "cpu").segment(files).image)


@pytest.fixture(scope="module")
def first(folders, files):
    """Labels of the first model, without a budget."""
    return SimpleITK.GetArrayFromImage(CasePredictor(folders[0], Choices(("0", "1")), "cpu").segment(files).image)


def test_time_enough(timed, files, clock, both, first):
    result, labels, _ = segment(timed(10_000, lambda model, number: 1.0), files, clock)
    assert (result.how, result.complete) == ("2 models, 2 fold(s), mirroring, step size 0.5", True)
    np.testing.assert_array_equal(labels, both)
    assert not np.array_equal(both, first)


def test_the_later_model_is_given_up_before_mirroring(timed, files, clock, first):
    """Its passes take twenty times as long, as two passes of each have shown."""
    result, labels, seconds = segment(timed(81, lambda model, number: 20.0 if model else 1.0), files, clock)
    assert result.how == "2 fold(s), mirroring, step size 0.5; given up for the time: 1 of 2 models"
    assert result.complete and seconds <= 81
    np.testing.assert_array_equal(labels, first)


def test_what_only_a_first_pass_takes_gives_up_no_model(timed, files, clock, both):
    """The later model's first pass compiles for a thousand seconds."""
    predictor = timed(200, lambda model, number: 1000.0 if model == 1 and number == 1 else 1.0)
    predictor.warm_up()
    result, labels, _ = segment(predictor, files, clock)
    assert result.how == "2 models, 2 fold(s), mirroring, step size 0.5"
    np.testing.assert_array_equal(labels, both)


def test_no_model_stays_on_a_gpu_after_the_first_passes(timed, monkeypatch):
    left = []
    monkeypatch.setattr(Member, "leave_the_device", lambda member: left.append(member))
    predictor = timed(100, lambda model, number: 1.0)
    predictor.warm_up()
    assert left == list(predictor._ensemble.members)


def test_no_model_stays_on_a_gpu_after_a_case_that_fails(timed, files, monkeypatch):
    left = []
    monkeypatch.setattr(Member, "leave_the_device", lambda member: left.append(member))
    predictor = timed(None, lambda model, number: 1 / (1 - model))
    with pytest.raises(ZeroDivisionError):
        predictor.segment(files)
    assert left == list(predictor._ensemble.members)


def test_what_is_interrupted_leaves_the_models_before_it(timed, files, clock, first):
    """The later one is slower than its first passes, and stops: what the first said is the answer."""
    result, labels, seconds = segment(
        timed(54, lambda model, number: 5.0 if model and number > 2 else 1.0), files, clock
    )
    assert result.how == (
        "2 fold(s), mirroring, step size 0.5 (2 models, 2 fold(s), mirroring, step size 0.5 took too long); "
        "given up for the time: 1 of 2 models"
    )
    assert result.complete and seconds <= 54
    np.testing.assert_array_equal(labels, first)


def test_a_first_model_that_gets_slower_falls_back_in_time(timed, files, clock):
    pace = lambda model, number: 1.0 if number < 5 else 3.0  # noqa: E731
    result, _, seconds = segment(timed(54, pace), files, clock)
    assert "took too long" in result.how and seconds <= 54 and result.complete


@pytest.mark.parametrize("budget", [2, 20, 50, 80])
def test_a_budget_is_kept_whatever_the_pace(timed, files, clock, budget):
    pace = lambda model, number: (1.0 + (number - 1) % 3 / 4) * (1 + model)  # noqa: E731
    predictor = timed(budget, pace)
    predictor.warm_up()
    _, _, seconds = segment(predictor, files, clock)
    assert seconds <= budget
