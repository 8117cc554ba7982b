"""GPU memory of the networks without a GPU: the tensors that a training step or an inference keeps, counted.

    python benchmarks/network_memory.py [--json FILE]

Runs the networks on fake tensors, which have sizes but no data, in 16-bit mixed precision with CUDA's choice of what
stays fp32, and follows every allocation. The scans and convolutions go into the Triton backend with its launches left
out, so that what it allocates inside an operator counts too. Not counted: the CUDA context, cuDNN's workspaces, and
what the allocator loses to fragmentation; a GPU shows somewhat more. Takes seconds, and little memory.
"""

import argparse
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F  # noqa: N812
from networks import OURS, U_MAMBA, Network, training_step
from published import MEDSEGMAMBA_INFERENCE_MIB, SEGMAMBA_TRAINING_MIB
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunetv2_mamba.ops import backend_selection
from nnunetv2_mamba.ops.backends import triton
from nnunetv2_mamba.ops.scan_arguments import ScanArguments, rows_contiguous
from nnunetv2_mamba.trainers.activation_checkpointing import checkpoint_activations

MIB = 2**20
LOW_PRECISION = torch.bfloat16  # as large as fp16, and the loss needs no scaling, which would look at data
# Of what the networks use; the CPU's autocast leaves these in 16 bits.
FP32_ON_CUDA = ("layer_norm", "group_norm", "interpolate", "cross_entropy")


class Allocations(TorchDispatchMode):
    """Follows the storages of all tensors: bytes alive, and the most that were alive at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.namespace == "nnunetv2_mamba":
            with self:  # what the operator allocates inside
                result = run_operator(function.__name__.partition(".")[0], arguments)
        else:
            result = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def run_operator(name: str, arguments: tuple) -> Tensor | tuple[Tensor, ...] | list[Tensor]:
    """One of `nnunetv2_mamba::` by the Triton backend, as `ops/_directional_scan.py` and `ops/_causal_conv1d.py` do."""
    *arguments, _ = (rows_contiguous(a) if isinstance(a, Tensor) else a for a in arguments)
    kind, _, backward = name.removeprefix("directional_").removeprefix("causal_").partition("_")
    function = getattr(triton, f"{kind.removesuffix('1d')}_{backward or 'forward'}")
    if kind == "scan" and backward:
        grad_out, *arguments, states = arguments
        result = function(grad_out, ScanArguments(*arguments), states, no_launch)
    elif kind == "scan":
        result = function(ScanArguments(*arguments), no_launch)
    else:
        result = function(*arguments, no_launch)
    return [gradient for gradient in result if gradient is not None] if backward else result


def no_launch(*arguments: object, **options: object) -> None:
    pass


def in_fp32(function: Callable) -> Callable:
    """`function` on an fp32 input where autocast is on."""

    def cast(tensor: Tensor, *arguments: object, **keywords: object) -> Tensor:
        return function(tensor.float() if torch.is_autocast_enabled("cpu") else tensor, *arguments, **keywords)

    return cast


@contextmanager
def fake_gpu() -> Iterator[Allocations]:
    """Fake tensors, and a Triton backend that only allocates."""
    with (
        patch.object(backend_selection, "unavailable", lambda *name_and_operator: None),
        patch.multiple(F, **{name: in_fp32(getattr(F, name)) for name in FP32_ON_CUDA}),
        FakeTensorMode(),
        Allocations() as allocations,
    ):
        yield allocations


def peak_of(prepare: Callable[[], Callable[[], None]]) -> tuple[float, float]:
    """MiB that are there before a step, the first of its kind done, and at its peak."""
    with fake_gpu() as allocations:
        step = prepare()
        step()  # makes the momenta
        before = allocations.peak = allocations.alive
        step()
        return before / MIB, allocations.peak / MIB


def training_of(network: Network, checkpointing: bool = False) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        built = network.build().train()
        if checkpointing:
            checkpoint_activations(built)
        return training_step(built, (network.edge,) * 3, network.channels, 2, LOW_PRECISION)

    return prepare


def inference_of(network: Network) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        built = network.build().eval()
        image = torch.randn(1, network.channels, *(network.edge,) * 3)

        def step() -> None:
            with torch.inference_mode(), torch.autocast("cpu", LOW_PRECISION):
                built(image)

        return step

    return prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("network_memory.json"), help="where to write the results")
    path = parser.parse_args().json
    segmamba, medsegmamba = OURS["SegMamba"], OURS["MedSegMamba"]
    rows = []
    for what, prepare, paper, aim in (
        ("SegMamba, training step, 128^3, batch 2", training_of(segmamba), SEGMAMBA_TRAINING_MIB, 0.6),
        (
            "the same with activation checkpointing",
            training_of(segmamba, checkpointing=True),
            SEGMAMBA_TRAINING_MIB,
            0.6,
        ),
        ("SegMamba without Mamba, training step", training_of(OURS["SegMamba, no Mamba"]), None, None),
        ("MedSegMamba, inference, 96^3, 32 classes", inference_of(medsegmamba), MEDSEGMAMBA_INFERENCE_MIB, 0.75),
        ("MedSegMamba, training step, 96^3, batch 2", training_of(medsegmamba), None, None),
        ("U-Mamba Enc, training step, 128^3, batch 2", training_of(U_MAMBA["U-Mamba Enc"]), None, None),
        (
            "the same with activation checkpointing",
            training_of(U_MAMBA["U-Mamba Enc"], checkpointing=True),
            None,
            None,
        ),
        ("U-Mamba Enc without Mamba, training step", training_of(U_MAMBA["U-Mamba Enc, no Mamba"]), None, None),
    ):
        before, peak = peak_of(prepare)
        row = {"what": what, "held MiB": before, "peak MiB": peak}
        row |= {"paper MiB": paper, "ratio": paper and peak / paper, "aim": aim}
        rows.append(row)
        against = f"  {peak / paper:.2f} of the paper's {paper:,.0f} (aim {aim})" if paper else ""
        print(f"{what:45} held {before:8,.0f}  peak {peak:8,.0f} MiB{against}", flush=True)
    path.write_text(json.dumps({"torch": torch.__version__, "counted": "fake tensors", "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
