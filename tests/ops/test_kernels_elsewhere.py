"""The CPU kernels as zig compiles them for each system's wheel, run by an emulator or beside the system where there is
one: what calls of the library here, held against the definition, leave in memory is what they leave there.

With ``apt-get install qemu-user libc6-arm64-cross wine``.
"""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recorded_calls import RecordedCalls
from scan_cases import MAKERS, assert_same, make_case, run_conv

from nnunetv2_mamba.ops.backends import cpu, cpu_build, cpu_library

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cpu_build.zig() is None, reason="needs ziglang"),
    pytest.mark.skipif(cpu.available() is not None, reason=f"no CPU kernels here: {cpu.available()}"),
]
# What starts a program of that system here, and the file that must be there for it.
RUNNERS = {
    "manylinux_2_17_x86_64": ((), "/lib64/ld-linux-x86-64.so.2"),
    "manylinux_2_17_aarch64": (("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"), "/usr/aarch64-linux-gnu"),
    "win_amd64": (("wine",), "/usr/lib/wine"),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """A file of calls of every function, whose results are the definition's."""
    recorded = RecordedCalls()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_library.Call, "run", lambda call, function: recorded.run(call, function))
        for dtype, bounds in ((torch.float32, (1e-6, 1e-5)), (torch.float64, (1e-13, 1e-12))):
            for make in MAKERS.values():
                case = make(batch=1, length=900, channels=34, state_size=5, dtype=torch.float64)
                truth = case.run_with_gradients("reference")
                assert_same(case.to(dtype).run_with_gradients("cpu"), truth, *bounds)
            case = make_case(length=150, channels=33, dtype=dtype)
            weight = torch.linspace(-1, 1, 2 * 33 * 4, dtype=dtype).view(2, 33, 4).requires_grad_()
            tensors = {"x": case.tensors["u"], "weight": weight, "bias": case.tensors["D"]}
            truth = run_conv(tensors, case.paths, "silu", "reference")
            assert_same(run_conv(tensors, case.paths, "silu", "cpu"), truth, *bounds)
    file = tmp_path_factory.mktemp("calls") / "calls"
    recorded.write(file)
    return file


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="emulators of Linux, x86-64")
@pytest.mark.parametrize("wheel", RUNNERS)
def test_kernels_of_other_systems(wheel, calls, tmp_path):
    runner, needed = RUNNERS[wheel]
    if not Path(needed).exists() or not all(map(shutil.which, runner[:1])):
        pytest.skip(f"{needed} is not there")
    compiler, target, for_kernels = cpu_build.for_wheel(wheel)
    cpu_build.build(tmp_path / target.library_name, compiler, target, for_kernels)
    program = tmp_path / "repeat_calls.exe"
    c = cpu_build.zig("cc", "-target", cpu_build.WHEELS[wheel])
    c.run("-O2", "-o", program, Path(__file__).with_name("repeat_calls.c"), scratch=tmp_path / "zig")
    command = [*runner, program, tmp_path / target.library_name, calls]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("nm_scan_backward_f32") >= 4  # both scans, with one thread and with many
