"""Where ``torch.compile`` cannot compile, a training goes on without it and says so once."""

from __future__ import annotations

import multiprocessing
import subprocess
from datetime import timedelta
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from functorch.compile import make_boxed_func
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import InternalTorchDynamoError, Unsupported
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mamba import trainers
from nnunetv2_mamba.ops.backends import triton_devices
from nnunetv2_mamba.text import short_reason
from nnunetv2_mamba.trainers import compilation, guarded_trainer
from nnunetv2_mamba.trainers.compilation import compiler_problem, is_compiled, is_compiler_error, uncompiled
from nnunetv2_mamba.trainers.ema_teacher import EMATeacher
from nnunetv2_mamba.trainers.out_of_memory import OutOfMemoryError

FAILED = "torch.compile failed, the training goes on without it, slower: "
SETTINGS = "num_epochs=1, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1"


class Heads(nn.Module):
    """Two resolutions, a head each, with nnU-Net's switch; compiled in two graphs."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.deep_supervision = True
        self.stem, self.high, self.low = nn.Conv3d(2, 2, 1), nn.Conv3d(2, 3, 1), nn.Conv3d(2, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        x = self.stem(x)
        torch._dynamo.graph_break()
        logits = self.high(x)
        return [logits, self.low(nn.functional.avg_pool3d(x, 2))] if self.decoder.deep_supervision else logits


class CompilingOnCPUs(nnUNetTrainer):
    def _do_i_compile(self) -> bool:
        return True


class Compiling(trainers.nnUNetTrainerSegMamba, CompilingOnCPUs):
    """Compiles on a CPU too."""

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, inputs, outputs, deep_supervision=True):
        torch.manual_seed(0)
        return Heads()


class NotCompiling(trainers.nnUNetTrainerSegMamba):
    """Does not, as nnU-Net has it on CPUs."""

    build_network_architecture = staticmethod(Compiling.build_network_architecture)


def never(graph, inputs):
    """A backend that is broken."""
    raise AssertionError("source already in seen_sources")


def only_forward(graph, inputs):
    """A backend that compiles the backward pass when it first runs, as all do, and fails then."""

    def fail(graph, inputs):
        raise TypeError("no lowering\n\nand a page of advice")

    return aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=fail)(graph, inputs)


def not_the_stems_backward(graph, inputs):
    """A backend that fails when the backward pass is through the heads, whose gradients DDP has by then."""

    def fail_at_the_stem(graph, inputs):
        backward = [node for node in graph.graph.nodes if node.target is torch.ops.aten.convolution_backward.default]
        if any(not node.args[-1][0] for node in backward):  # no gradient of its input, the image
            raise KeyError("no lowering")
        return make_boxed_func(graph.forward)

    forward = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=fail_at_the_stem)
    return forward(graph, inputs)


def only_in_training(graph, inputs):
    """A backend that fails where no gradients are wanted: validation, prediction."""
    if not torch.is_grad_enabled():
        raise RuntimeError("cannot compile this one")
    return graph.forward


@pytest.fixture
def with_backend(monkeypatch):
    """Let ``torch.compile`` use a backend, in nnU-Net too."""

    def use(backend) -> None:
        torch._dynamo.reset()
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))

    yield use
    torch._dynamo.reset()


def batches(trainer) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    patch_size = trainer.configuration_manager.patch_size
    found = []
    for _ in range(3):
        labels = torch.randint(0, 3, (2, 1, *patch_size), generator=generator)
        found.append(
            {
                "data": torch.randn(2, 2, *patch_size, generator=generator),
                "target": [labels, labels[..., ::2, ::2, ::2]],
            }
        )
    return found


def trained(trainer) -> list[float]:
    """The losses of two training steps and a validation step."""
    trainer.initialize()
    trainer.on_train_epoch_start()
    *training, validation = batches(trainer)
    losses = [float(trainer.train_step(batch)["loss"]) for batch in training]
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        return [*losses, float(trainer.validation_step(validation)["loss"])]


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (never, "BackendCompilerFailed: backend='never' raised: AssertionError: source already in seen_sources"),
        (only_forward, "no lowering"),
        (not_the_stems_backward, "no lowering"),
        (only_in_training, "BackendCompilerFailed: backend='only_in_training' raised: RuntimeError: cannot compile"),
    ],
)
def test_the_training_goes_on_without(make_trainer, with_backend, backend, reason):
    with_backend(backend)
    trainer, plain = make_trainer(Compiling, SETTINGS), make_trainer(NotCompiling, SETTINGS)
    assert trained(trainer) == pytest.approx(trained(plain), rel=1e-5)
    torch.testing.assert_close(trainer.bare_network().state_dict(), plain.network.state_dict())
    (line,) = [line for line in log_of(trainer).splitlines() if "torch.compile failed" in line]
    assert FAILED in line and reason in line and "advice" not in line
    assert not is_compiled(trainer.network) and not is_compiled(trainer.loss)
    assert (
        trainer.environment["compiled"] is False
        and not trainer.checkpoint_content()["nnunetv2_mamba_environment"]["compiled"]
    )


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_what_compiles_stays_compiled(make_trainer, with_backend, backend):
    with_backend(backend)
    trainer, plain = make_trainer(Compiling, SETTINGS), make_trainer(NotCompiling, SETTINGS)
    assert trained(trainer) == pytest.approx(trained(plain), rel=1e-5)
    assert isinstance(trainer.network, OptimizedModule) and isinstance(trainer.loss.loss.dc, OptimizedModule)
    assert trainer.environment["compiled"] is True and "torch.compile failed" not in log_of(trainer)


def test_the_prediction_of_the_validation_cases_goes_on_without(make_trainer, with_backend, monkeypatch):
    # each process that nnU-Net starts for the export would import torch
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: SimpleNamespace(Pool=ThreadPool))
    with_backend(only_in_training)
    trainer = make_trainer(Compiling, SETTINGS)
    trainer.initialize()
    trainer.perform_actual_validation()
    assert (Path(trainer.output_folder) / "validation" / "summary.json").is_file()
    assert log_of(trainer).count("torch.compile failed") == 1 and not is_compiled(trainer.network)


def test_inductor_without_a_c_compiler(make_trainer, with_backend):
    inductor = pytest.importorskip("torch._inductor.config")
    with_backend("inductor")
    with inductor.patch({"cpp.cxx": (None, "/no/such/compiler"), "force_disable_caches": True}):
        trainer, plain = make_trainer(Compiling, SETTINGS), make_trainer(NotCompiling, SETTINGS)
        assert trained(trainer) == pytest.approx(trained(plain), rel=1e-5)
    assert log_of(trainer).count("torch.compile failed") == 1


def test_what_is_known_to_fail_on_a_gpu_is_not_tried(make_trainer, with_backend, monkeypatch):
    """Without a C compiler, say: nnU-Net's own switch stays as it is, the log says why and what to do."""

    def fail(graph, inputs):
        raise AssertionError("compiled all the same")

    with_backend(fail)
    monkeypatch.setattr(guarded_trainer, "compiler_problem", lambda device: "no C compiler; install gcc")
    trainer, plain = make_trainer(Compiling, SETTINGS), make_trainer(NotCompiling, SETTINGS)
    assert trained(trainer) == pytest.approx(trained(plain), rel=1e-5)
    assert log_of(trainer).count("torch.compile is not used, the training is slower: no C compiler; install gcc") == 1
    assert "torch.compile failed" not in log_of(trainer) and trainer.environment["compiled"] is False


def test_what_cannot_be_compiled_for(monkeypatch):
    monkeypatch.setattr(triton_devices, "available", lambda device: f"nothing on {device}")
    assert compiler_problem(torch.device("cpu")) is None  # needs no Triton
    assert compiler_problem(torch.device("cuda", 1)) == "nothing on cuda:1"


@pytest.mark.parametrize("error", [ValueError("the patch is too small"), AssertionError("in user code")])
def test_an_error_of_the_network_is_raised(make_trainer, with_backend, monkeypatch, error):
    with_backend("eager")
    trainer = make_trainer(Compiling, SETTINGS)
    trainer.initialize()

    def fail(x):
        raise error

    monkeypatch.setattr(trainer.bare_network().high, "forward", torch.compiler.disable(fail))
    with pytest.raises(type(error), match=str(error)):
        trainer.train_step(batches(trainer)[0])


def test_running_out_of_memory_is_no_reason_to_go_on_without(make_trainer, with_backend):
    def out_of_memory(graph, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with_backend(out_of_memory)
    trainer = make_trainer(Compiling, SETTINGS)
    trainer.initialize()
    with pytest.raises(OutOfMemoryError):
        trainer.train_step(batches(trainer)[0])
    assert is_compiled(trainer.network) and "torch.compile failed" not in log_of(trainer)


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(never, marks=pytest.mark.slow),
        pytest.param(only_forward, marks=pytest.mark.slow),
        not_the_stems_backward,
        pytest.param(only_in_training, marks=pytest.mark.slow),
        "aot_eager",
    ],
)
def test_with_several_gpus(make_trainer, with_backend, tmp_path, backend):
    """In one process: every process does the same. A failed backward pass leaves DDP half-way through its gradients,
    and uncompiled it wants a gradient for the lowest head, which nnU-Net gives no weight when it compiles."""
    with_backend(backend)
    trainer, plain = make_trainer(Compiling, SETTINGS), make_trainer(NotCompiling, SETTINGS)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        trainer.is_ddp = plain.is_ddp = True
        with patch(
            "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.DDP",
            lambda network, device_ids: DistributedDataParallel(network),
        ):
            losses, expected = trained(trainer), trained(plain)
    finally:
        dist.destroy_process_group()
    assert losses == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(trainer.bare_network().state_dict(), plain.bare_network().state_dict())
    assert isinstance(trainer.network, DistributedDataParallel)
    assert is_compiled(trainer.network) == (backend == "aot_eager")


def test_with_several_gpus_all_go_on_without_or_none(make_trainer, with_backend, tmp_path):
    """One process takes itself for one of two, of which the other compiles, and then fails too."""
    with_backend(never)
    trainer = make_trainer(Compiling, SETTINGS)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        trainer.is_ddp = True
        with patch(
            "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.DDP",
            lambda network, device_ids: DistributedDataParallel(network),
        ):
            trainer.initialize()
        predict = partial(trainer._compiled_if_possible, lambda: trainer.network(batches(trainer)[0]["data"]))
        with patch.object(dist, "get_world_size", lambda: 2), patch.object(compilation, "_PATIENCE", timedelta(0, 1)):
            message = r"failed on GPU 0, and not on all 2 \(.*seen_sources\); .*nnUNet_compile="
            with pytest.raises(RuntimeError, match=message):
                predict()
            assert is_compiled(trainer.network) and FAILED not in log_of(trainer)
            with patch.object(dist, "get_rank", lambda: 1):
                compilation.await_failure_of_all(trainer.output_folder, "no compiler")
            compilation.await_failure_of_all(trainer.output_folder, "no compiler")
        predict()
    finally:
        dist.destroy_process_group()
    assert not is_compiled(trainer.network) and FAILED in log_of(trainer)


def test_what_is_known_to_fail_on_another_gpu_is_not_tried(make_trainer, with_backend, monkeypatch):
    with_backend(never)
    monkeypatch.setattr(Compiling, "_of_every_gpu", lambda self, own: [own, "no C compiler; install gcc"])
    trainer = make_trainer(Compiling, SETTINGS)
    trainer.initialize()
    assert not is_compiled(trainer.network) and "slower: no C compiler; install gcc" in log_of(trainer)


def test_the_teacher_of_a_distillation(with_backend):
    with_backend(never)
    teacher = EMATeacher(Heads(), 0.9, compiled=True)
    x = torch.randn(1, 2, 4, 4, 4)
    with pytest.raises(RuntimeError) as failed:
        teacher(x)
    assert is_compiler_error(failed.value)
    teacher.stop_compiling()
    assert teacher(x).shape == (1, 3, 4, 4, 4)


def raised_in(module: str, error: Exception) -> Exception:
    """The error, after it was raised in a module of that name."""
    namespace = {"__name__": module, "error": error}
    exec("def fail():\n    raise error", namespace)
    try:
        namespace["fail"]()
    except Exception as caught:
        return caught


COMPILERS = [
    Unsupported("call_function"),
    InternalTorchDynamoError("a bug"),
    raised_in("torch._inductor.lowering", TypeError("no such operator")),
    raised_in("triton.runtime.build", subprocess.CalledProcessError(1, ["gcc"])),  # without Python.h
    raised_in("triton.runtime.build", RuntimeError("Failed to find C compiler. Please specify via CC environment")),
]
OTHERS = [
    ValueError("the patch is too small"),
    raised_in("nnunetv2_mamba.ops.backend_selection", RuntimeError("the backend cannot be used")),
    raised_in("tritonic", RuntimeError("not Triton")),
    raised_in("torch._inductor.compile_fx", torch.OutOfMemoryError("CUDA out of memory")),
    raised_in("torch._inductor.output_code", RuntimeError("CUDA error: device-side assert triggered")),
    raised_in("triton.runtime.jit", RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")),
    MemoryError(),
]


@pytest.mark.parametrize("error", COMPILERS, ids=str)
def test_errors_of_compilers(error):
    assert is_compiler_error(error)
    wrapped = RuntimeError("in the step")
    wrapped.__cause__ = error
    assert is_compiler_error(wrapped)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors(error):
    assert not is_compiler_error(error)


def test_the_reason_is_one_short_line():
    text = short_reason(RuntimeError("first\nsecond\n\nSet TORCHDYNAMO_VERBOSE=1"))
    assert text == "RuntimeError: first second"
    assert short_reason(ValueError()) == "ValueError: no message"
    assert len(short_reason(RuntimeError("word " * 1000))) < 250


def test_uncompiled_leaves_everything_else_as_it_is():
    module = nn.Sequential(nn.Conv3d(1, 1, 1), torch.compile(nn.ReLU(), backend="eager"))
    convolution, relu = module[0], module[1]._orig_mod
    assert uncompiled(module) is module and module[0] is convolution and module[1] is relu
    assert uncompiled(torch.compile(convolution, backend="eager")) is convolution
