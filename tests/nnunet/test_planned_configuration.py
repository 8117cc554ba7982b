import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba.nnunet.planned_configuration import planned_configuration, preprocessing_of

CONFIGURATIONS = {
    "3d_lowres": {"spacing": [2, 2, 2], "batch_size": 2, "next_stage": "3d_cascade_fullres", "architecture": {}},
    "3d_fullres": {"spacing": [1, 1, 1], "batch_size": 2, "architecture": {}},
    "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    "mine": {"inherits_from": "3d_cascade_fullres", "batch_size": 5},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_inherits_as_nnunets_does(name):
    expected = PlansManager({"configurations": CONFIGURATIONS}).get_configuration(name).configuration
    found = planned_configuration({"configurations": CONFIGURATIONS}, name)
    found.pop("inherits_from", None)
    expected.pop("inherits_from", None)
    assert found == expected


@pytest.mark.parametrize(
    ("plans", "found"),
    [
        ({}, {}),
        ({"configurations": []}, {}),
        ({"configurations": {"a": 3}}, {}),
        ({"configurations": {"a": {"x": 1, "inherits_from": "b"}}}, {"x": 1, "inherits_from": "b"}),
        ({"configurations": {"a": {"x": 1, "inherits_from": ["a"]}}}, {"x": 1, "inherits_from": ["a"]}),
        ({"configurations": {"a": {"x": 1, "inherits_from": "a"}}}, {"x": 1, "inherits_from": "a"}),
    ],
)
def test_plans_of_a_stranger_say_what_they_have(plans, found):
    assert planned_configuration(plans, "a") == found


def test_what_decides_how_cases_are_preprocessed():
    plans = {"transpose_forward": [0, 1, 2], "configurations": CONFIGURATIONS}
    found = preprocessing_of(plans, "mine")
    assert found["spacing"] == [1, 1, 1] and found["transpose_forward"] == [0, 1, 2]
    assert not {"batch_size", "previous_stage"} & found.keys()
