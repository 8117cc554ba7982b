"""Whether two dataset.json mean the same by a network's channels and outputs."""

import pytest

from nnunetv2_mamba.nnunet.dataset_description import changed_meaning, renamed

LABELS = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def description(labels=LABELS, channels=("T1", "T2"), order=None):
    names = {str(number): name for number, name in enumerate(channels)}
    return {"channel_names": names, "labels": labels} | ({"regions_class_order": order} if order else {})


@pytest.mark.parametrize(
    ("trained", "now", "said"),
    [
        ({}, {}, ""),
        ({}, {"labels": {"b": 2, "a": 1, "background": 0}}, ""),
        ({}, {"labels": {**LABELS, "ignore": 3}}, ""),
        ({}, {"channels": ("t1", "t2")}, ""),
        ({"labels": {"background": 0, "whole": (1, 2), "core": 2}}, {"labels": REGIONS}, ""),
        ({}, {"labels": {"background": 0, "a": 2, "b": 1}}, "the label 'a' was 1 and is 2"),
        ({}, {"labels": {"background": 0, "a": 1, "c": 2}}, ""),
        ({}, {"labels": {"background": 0, "b": 1, "c": 2}}, "the label 'b' was 2 and is 1"),
        (
            {},
            {"labels": {**LABELS, "c": 3}},
            "the labels were {'background': 0, 'a': 1, 'b': 2} and are {'background': 0, 'a': 1, 'b': 2, 'c': 3}",
        ),
        (
            {"labels": REGIONS},
            {"labels": {"background": 0, "core": 2, "whole": [1, 2]}},
            "the regions or regions_class_order came in another order",
        ),
        (
            {"labels": REGIONS, "order": [1, 2]},
            {"labels": REGIONS, "order": [2, 1]},
            "the regions or regions_class_order came in another order",
        ),
        ({}, {"channels": ("T2", "T1")}, "the channels were ['T1', 'T2'] and are ['T2', 'T1']"),
        ({}, {"channels": ("T1",)}, "the channels were ['T1', 'T2'] and are ['T1']"),
    ],
)
def test_what_changed_the_meaning(trained, now, said):
    assert changed_meaning(description(**trained), description(**now)) == said


def test_other_names_are_listed():
    assert renamed(description(), description()) == ""
    now = description({"background": 0, "c": 1, "b": 2}, ("T1", "FLAIR"))
    assert renamed(description(), now) == "'T2' is 'FLAIR' now, 'a' is 'c' now"
