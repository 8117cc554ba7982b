"""Costs of a model: medians over folds, in the units that tables name."""

import pytest

from nnunetv2_mamba.results.costs import COSTS, median_costs

COST = {
    "parameters": 3_000_000,
    "flops": 5e9,
    "seconds_per_epoch": 10,
    "peak_memory": {"allocated_bytes": 3 * 2**30, "reserved_bytes": 4 * 2**30, "process_bytes": 5 * 2**30},
    "energy_joules": 7.2e6,
}


def test_medians_over_the_folds_in_their_units():
    longer = ({**COST, "seconds_per_epoch": seconds} for seconds in (11.5, 100))
    found = median_costs([COST, *longer, {}])
    assert list(found) == list(COSTS)
    assert list(found.values()) == pytest.approx([3, 5, 11.5, 3, 4, 5, 2])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 10**400, True])
def test_what_is_no_finite_number_is_not_known(number):
    costs = [{"parameters": number, "peak_memory": {"process_bytes": number}}, {"parameters": 2e6}]
    assert median_costs(costs) == {"parameters": 2}


def test_what_is_not_known_is_left_out():
    assert median_costs([{"parameters": "many", "peak_memory": 7}]) == {}
    assert median_costs([{"parameters": 2e6, "flops": None, "peak_memory": None}]) == {"parameters": 2}
