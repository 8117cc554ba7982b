import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from scan_cases import make_case

from nnunetv2_mamba.ops import backend_selection, causal_conv1d, directional_scan
from nnunetv2_mamba.ops.backend_selection import OPERATORS, choose, choose_backend, resolve
from nnunetv2_mamba.ops.backends import self_check, triton_devices
from nnunetv2_mamba.ops.device_errors import CheckPostponedError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch):
    """Pretend that the kernels named are missing, each for the reason given, and that all others are there."""

    def pretend(**missing: str) -> None:
        monkeypatch.delenv(backend_selection.ENVIRONMENT_VARIABLE, raising=False)
        monkeypatch.setattr(backend_selection, "unavailable", lambda name, *_: missing.get(name))
        backend_selection._warn_once.cache_clear()

    return pretend


@pytest.mark.parametrize(
    ("device", "dtype", "missing", "name", "reason"),
    [
        (CPU, torch.float32, {}, "cpu", "the kernel for cpu"),
        (CPU, torch.float64, {}, "cpu", "the kernel for cpu"),
        (CPU, torch.float32, {"cpu": "no compiler"}, "torch", "no compiler"),
        (CUDA, torch.float32, {}, "triton", "the kernel for cuda"),
        (CUDA, torch.float64, {}, "torch", "fp32"),
        (CUDA, torch.float32, {"triton": "too old"}, "torch", "too old"),
        (torch.device("mps"), torch.float32, {}, "torch", "no kernel for mps"),
    ],
)
def test_automatic_choice(machine, device, dtype, missing, name, reason):
    machine(**missing)
    chosen, why = choose_backend(device, dtype)
    assert chosen == name
    assert reason in why


def test_the_kernel_of_mamba_2_that_no_gpu_has_seen_is_used_by_name_only(machine, monkeypatch):
    machine()
    name, reason = choose_backend(CUDA, operator="directional_ssd")
    assert name == "torch"
    assert "has not run on a GPU yet" in reason
    assert choose_backend(CUDA, backend="triton", operator="directional_ssd")[0] == "triton"
    monkeypatch.setenv(backend_selection.ENVIRONMENT_VARIABLE, "triton")
    assert choose_backend(CUDA, operator="directional_ssd")[0] == "triton"
    with pytest.raises(RuntimeError, match="fp64"):
        choose_backend(CUDA, torch.float64, operator="directional_ssd")
    machine(triton="too old")
    with pytest.raises(RuntimeError, match="too old"):
        choose_backend(CUDA, backend="triton", operator="directional_ssd")
    assert choose_backend(CUDA, operator="directional_ssd")[0] == "torch"


def test_the_name_means_the_kernel_of_the_operator():
    modules = [backend_selection.load("triton", operator).__name__ for operator in OPERATORS]
    assert [name.rpartition(".")[2] for name in modules] == ["triton", "triton_ssd", "triton"]


def test_the_convolution_that_mamba_ssm_has_not_is_left_to_the_automatic_choice(machine, monkeypatch):
    machine()
    monkeypatch.setenv(backend_selection.ENVIRONMENT_VARIABLE, "mamba_ssm")
    assert choose_backend(CUDA)[0] == "mamba_ssm"
    assert choose_backend(CUDA, operator="causal_conv1d") == ("triton", "the kernel for cuda devices")
    with pytest.raises(RuntimeError, match="no mamba_ssm kernel of Mamba-2's scan"):
        monkeypatch.undo()
        choose_backend(CUDA, backend="mamba_ssm", operator="directional_ssd")


def test_environment_and_argument(machine, monkeypatch):
    machine()
    monkeypatch.setenv(backend_selection.ENVIRONMENT_VARIABLE, "reference")
    assert choose_backend(CPU) == ("reference", "asked for by NNUNETV2_MAMBA_SCAN")
    assert choose_backend(CPU, backend="torch") == ("torch", "asked for by the argument backend")
    assert choose_backend(CPU, backend="auto")[0] == "cpu"
    monkeypatch.setenv(backend_selection.ENVIRONMENT_VARIABLE, "")
    assert choose_backend(CPU)[0] == "cpu"


def test_an_unknown_name_lists_the_choices(machine, monkeypatch):
    machine()
    with pytest.raises(ValueError, match="argument backend must be one of auto, cpu, .*reference, got 'cuda'"):
        choose_backend(CPU, backend="cuda")
    monkeypatch.setenv(backend_selection.ENVIRONMENT_VARIABLE, "fast")
    with pytest.raises(ValueError, match="NNUNETV2_MAMBA_SCAN must be one of .* got 'fast'"):
        choose_backend(CPU)


@pytest.mark.parametrize(
    ("name", "device", "dtype", "remedy"),
    [
        ("cpu", CPU, torch.float32, "install a compiler"),
        ("triton", CPU, torch.float32, "use 'auto'"),
        ("triton", CUDA, torch.float64, "use 'auto'"),
        ("mamba_ssm", CPU, torch.float32, "use 'auto'"),
        ("mamba_ssm", CUDA, torch.float32, "pip install mamba-ssm"),
        ("cpu", CUDA, torch.float32, "use 'auto'"),
    ],
)
def test_a_backend_asked_for_by_name_must_work(machine, name, device, dtype, remedy):
    machine(cpu="install a compiler", mamba_ssm="pip install mamba-ssm")
    with pytest.raises(RuntimeError, match=f"backend '{name}', asked for by the argument backend, .*{remedy}"):
        choose_backend(device, dtype, name)


def test_mamba_ssm_says_how_to_get_its_kernel():
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE pip install mamba-ssm" in backend_selection.unavailable("mamba_ssm")


def test_a_slow_stand_in_is_reported_once(machine):
    machine(cpu="no compiler; install one")
    with pytest.warns(RuntimeWarning, match="no compiler; install one") as caught:
        for _ in range(3):
            assert resolve(CPU, (torch.float32,), None) == "torch"
    assert len(caught) == 1


def test_choices_that_deserve_no_warning(machine):
    machine(cpu="no compiler")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_backend(CPU)  # a question, not a scan
        resolve(CPU, (torch.float32,), "torch")
        resolve(CUDA, (torch.float64,), None)
        resolve(torch.device("mps"), (torch.float32,), None)


def test_the_environment_reaches_the_ops(machine, monkeypatch):
    machine()
    case = make_case()
    monkeypatch.setenv(backend_selection.ENVIRONMENT_VARIABLE, "mamba_ssm")
    with pytest.raises(RuntimeError, match="mamba_ssm"):
        directional_scan(**case.tensors, paths=case.paths)
    monkeypatch.setenv(backend_selection.ENVIRONMENT_VARIABLE, "triton")
    with pytest.raises(RuntimeError, match="triton"):
        causal_conv1d(torch.randn(1, 6, 2), torch.randn(1, 2, 4), None, torch.arange(6, dtype=torch.int32)[None])


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs that are not there, on which Triton works; what a check of a kernel gives is set for each of its calls.

    The checks that were made are in ``made``, as (operator, device, dtype).
    """
    made, outcomes = [], []

    def check(operator, module, device, dtype):
        made.append((operator, str(device), dtype))
        outcome = outcomes.pop(0) if outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.delenv(backend_selection.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(triton_devices, "available", lambda device: "too old" if device.index == 2 else None)
    monkeypatch.setattr(self_check, "disagreement", check)
    backend_selection.unavailable.cache_clear()
    yield SimpleNamespace(made=made, outcomes=outcomes)
    backend_selection.unavailable.cache_clear()


HALF, BF16, FP32 = torch.float16, torch.bfloat16, torch.float32


def test_a_kernel_is_checked_once_for_each_operator_precision_and_gpu(gpus):
    for _ in range(2):
        choose_backend("cuda", HALF)
        choose_backend("cuda:1", HALF)  # the current one
        choose_backend("cuda:0", HALF)
        choose_backend("cuda:0", HALF, operator="causal_conv1d")
        choose(torch.device("cuda:0"), (HALF, FP32, HALF))
    scan = "directional_scan"
    assert gpus.made == [
        (scan, "cuda:1", HALF),
        (scan, "cuda:0", HALF),
        ("causal_conv1d", "cuda:0", HALF),
        (scan, "cuda:0", FP32),
    ]


def test_every_gpu_is_asked_for_itself(gpus):
    assert choose_backend("cuda:0")[0] == "triton"
    assert choose_backend("cuda:2") == ("torch", "the triton kernel cannot be used: too old")


def test_a_kernel_that_is_wrong_is_so_for_good_and_in_its_precision_only(gpus):
    gpus.outcomes += ["its results are wrong"]
    for _ in range(2):
        assert choose_backend("cuda", HALF) == ("torch", "the triton kernel cannot be used: its results are wrong")
        assert choose_backend("cuda", BF16)[0] == "triton"
    assert len(gpus.made) == 2


@pytest.mark.parametrize("backend", [None, "triton"])
def test_a_check_without_memory_is_made_again(gpus, backend):
    gpus.outcomes += [CheckPostponedError(CUDA, torch.OutOfMemoryError("CUDA out of memory"))] * 2
    for _ in range(2):
        with pytest.raises(CheckPostponedError, match="OutOfMemoryError: CUDA out of memory.*try again"):
            choose_backend("cuda", HALF, backend)
    assert choose_backend("cuda", HALF, backend)[0] == "triton"
    assert len(gpus.made) == 3


def test_amds_gpus_get_the_kernels_by_name_only(gpus, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    for operator in ("directional_scan", "causal_conv1d"):
        name, reason = choose_backend("cuda", operator=operator)
        assert name == "torch" and "AMD GPU (ROCm)" in reason
        assert choose_backend("cuda", backend="triton", operator=operator)[0] == "triton"
    backend_selection._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="more than ten times slower: .*ROCm.* asked for by name"):
        resolve(CUDA, (FP32,), None)


def test_the_operators_ask_for_the_precisions_of_their_tensors(gpus, monkeypatch):
    asked = []
    monkeypatch.setattr(backend_selection, "resolve", lambda device, dtypes, *_: asked.append(dtypes) or "reference")
    case = make_case()
    tensors = case.tensors | {name: case.tensors[name].half() for name in ("delta", "B", "C")}
    directional_scan(**tensors, paths=case.paths)
    causal_conv1d(torch.randn(1, 6, 2).bfloat16(), torch.randn(1, 2, 4), None, torch.arange(6, dtype=torch.int32)[None])
    assert asked == [(FP32, HALF, HALF, HALF), (BF16,)]


def test_importing_the_ops_loads_no_backend():
    code = """
import sys, nnunetv2_mamba.ops
backends = ("triton", "torch._dynamo", "nnunetv2_mamba.ops.backends")
loaded = [name for name in sys.modules if name.startswith(backends)]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)
