import pytest

from nnunetv2_mamba.packaging import case_report
from nnunetv2_mamba.packaging.case_report import CaseCost, line_of_case, read_lines


@pytest.mark.parametrize("memory", [None, 812])
@pytest.mark.parametrize("gpu", [0, 3001])
def test_what_is_printed_of_a_case_can_be_read(monkeypatch, memory, gpu):
    monkeypatch.setattr(case_report, "process_peak", lambda: memory and memory * 2**20 + 5)
    monkeypatch.setattr(case_report, "_gpu_peak", lambda: gpu * 2**20)
    lines = [
        line_of_case(name, f"/output/{name}.nii.gz", "2 folds, step size 0.5", (512, 512, 97), seconds)
        for name, seconds in (("a: b, 3 s", 0.04), ("case_1", 1234.56))
    ]
    text = "\n".join(["on the CPU", *lines, "2 of 2 cases done"])
    assert read_lines(text) == [
        CaseCost("a: b, 3 s", (512, 512, 97), 0.0, memory, gpu or None),
        CaseCost("case_1", (512, 512, 97), 1234.6, memory, gpu or None),
    ]


def test_a_name_cannot_add_a_line():
    (cost,) = read_lines(line_of_case("a\nb", "/output/x", "1 fold", (1, 2, 3), 1))
    assert (cost.name, cost.size, cost.seconds) == ("a\\nb", (1, 2, 3), 1.0)
