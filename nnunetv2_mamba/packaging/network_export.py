"""One patch forward of a trained model as an ONNX or torch.export file, checked against the network before it is kept.

The scan is written out in operations of PyTorch: its steps become nodes of the graph, so the file needs neither this
package nor its operators. What that costs grows with the patch, and past ``MAX_STEPS`` it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from nnunetv2_mamba.ops.backends import torch_chunked, torch_ssd
from nnunetv2_mamba.ops.scan_arguments import ScanArguments

from ..files import written_whole
from ..nnunet.model_folds import find_folds
from ..text import times
from .foreign_parts import check_trainer
from .model_content import check_no_cascade, read_model
from .model_source import open_model
from .network_loading import load_model
from .trial import variables_as_in_the_container

ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2"}
# Steps of all scans of the network together; a step is about ten nodes. Larger graphs have not been seen to finish.
MAX_STEPS = {"onnx": 500, "torch-export": 2500}
TOLERANCE = 1e-3  # of the largest logit


def export(
    source: Path, output: Path, kind: str, fold: str | None = None, checkpoint: str = "checkpoint_final.pth"
) -> str:
    """Export one fold's network; input is ``(1, channels, *patch)`` fp32, output the logits, without mirroring.

    Args:
        source: the model's folder or ZIP.
        output: file to write; it appears complete and checked, or not at all.
        kind: ``onnx`` or ``torch-export``.
        fold: as ``0`` or ``all``; None for the first.
        checkpoint: name of the file in the fold's folder.

    Returns:
        What was exported and how far it is from the network.

    Raises:
        ValueError: for a network that cannot be exported, with the reason, or an export that computes something else.
        OSError, pickle.UnpicklingError: for a model that cannot be read, and a file that cannot be written.
    """
    if output.suffix != ENDINGS[kind]:
        raise ValueError(f"{output} must end in {ENDINGS[kind]}")
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder")
    with written_whole(output) as file:
        file.touch()  # what cannot be written is found before the work
        network, x, name = _load(source, fold, checkpoint)
        with torch.inference_mode():
            expected = network(x).numpy()
        with _failure_named(f"{name} cannot be exported with {kind}"):
            program = _traced(network, x)
        _refuse_long_scans(program, x, name, kind)
        with _failure_named(f"{name} cannot be exported with {kind}"):
            result = {"onnx": _to_onnx, "torch-export": _to_torch_export}[kind](program, x, file)
        difference = float(np.abs(result - expected).max() / np.abs(expected).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the {kind} export of {name} differs from the network by {difference:.1e} of its largest logit, more "
                f"than {TOLERANCE:g}; {output} was not written"
            )
    return f"{name}, input {tuple(x.shape)}, output {result.shape}, largest difference {difference:.1e}"


@contextmanager
def _failure_named(what: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f'{what}: there is no {error.name}; pip install "nnunetv2-mamba[onnx]"') from error
    except Exception as error:  # the exporters raise what they like
        raise ValueError(f"{what}: {f'{type(error).__name__}: {error}'[:500]}") from error


def _load(source: Path, fold: str | None, checkpoint: str) -> tuple[nn.Module, torch.Tensor, str]:
    """The network of a fold, an input for it and its name."""
    folder = open_model(source)
    (fold, *_) = find_folds(folder, None if fold is None else [fold], checkpoint)
    content = read_model(folder, [fold], checkpoint, source)
    check_no_cascade(content)
    check_trainer(content)
    model = load_model(content)
    shape = (1, model.n_channels, *model.configuration.patch_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return model.network.eval(), x, f"{model.trainer} (fold {fold})"


def _traced(network: nn.Module, x: torch.Tensor) -> ExportedProgram:
    """The network as a graph in which the package's operators are nodes, whichever backend this user asks for."""
    with torch.no_grad(), variables_as_in_the_container():
        return _exported(network, x)


def _exported(module: nn.Module, x: torch.Tensor) -> ExportedProgram:
    """Trace without Dynamo, on which torch 2.6 still insists by default: it makes an operator of ours of every table of
    paths, and does not get through the scans in plain operations."""
    return torch.export.export(module, (x,), strict=False)


def _refuse_long_scans(program: ExportedProgram, x: torch.Tensor, name: str, kind: str) -> None:
    steps = 0
    for _, node in _nodes(program.graph_module):
        if node.target is torch.ops.nnunetv2_mamba.directional_scan.default:
            delta, A = (argument.meta["val"].shape for argument in node.args[1:3])
            chunks = torch_chunked.states_shape(*delta, A[-1])[2]
            steps += 2 * delta[1] * -(-delta[2] // chunks)  # every chunk is walked twice, all chunks at once
        elif node.target is torch.ops.nnunetv2_mamba.directional_ssd.default:
            u, delta, _, B = (argument.meta["val"].shape for argument in node.args[:4])
            groups = torch_ssd.states_shape(*delta[:3], u[-1], B[-1])[2]
            steps += delta[1] * (50 + 6 * groups)  # seen: five hundred nodes, and sixty for each group of chunks
    if steps > MAX_STEPS[kind]:
        raise ValueError(
            f"the scans of {name} take {steps} steps for a patch of {times(x.shape[2:])}, and each step "
            f"would become nodes of the graph; more than {MAX_STEPS[kind]} are not exported with {kind}. Use a "
            "smaller patch, or UMambaBot, which scans once, at the lowest resolution"
        )


def _to_torch_export(program: ExportedProgram, x: torch.Tensor, file: Path) -> np.ndarray:
    torch.export.save(_in_plain_operations(program, x), file)
    with torch.inference_mode():
        return torch.export.load(file).module()(x).numpy()


def _to_onnx(program: ExportedProgram, x: torch.Tensor, file: Path) -> np.ndarray:
    import onnxruntime

    torch.onnx.export(_in_plain_operations(program, x), (x,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return result


def _in_plain_operations(program: ExportedProgram, x: torch.Tensor) -> ExportedProgram:
    """The program with the package's operators, into which no exporter can look, written out.

    They are replaced before a second trace, because in a table of decompositions nothing may be written in place.
    """
    operators = torch.ops.nnunetv2_mamba
    plain = {  # the last argument is the backend
        operators.directional_scan.default: lambda *inputs: torch_chunked.scan_forward(ScanArguments(*inputs[:-1])),
        operators.directional_ssd.default: lambda *inputs: torch_ssd.scan_forward(ScanArguments(*inputs[:-1])),
        operators.causal_conv1d.default: lambda *inputs: torch_chunked.conv_forward(*inputs[:-1]),
    }
    module = program.module()
    for part, node in _nodes(module):
        if node.target in plain:
            node.target = plain[node.target]
            part.recompile()
    table = torch.export.default_decompositions()
    table[torch.ops.aten.diagonal_scatter.default] = _diagonal_scatter
    table[torch.ops.aten.empty_permuted.default] = lambda size, order, **options: torch.zeros(size, **options)
    with torch.no_grad():
        return _exported(module, x).run_decompositions(table)


def _diagonal_scatter(
    x: torch.Tensor, src: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> torch.Tensor:
    """Do as ``torch.diagonal_scatter`` with a square, without writing in place, which ONNX's exporter refuses."""
    square = x.movedim((dim1, dim2), (-2, -1))
    assert offset == 0 and square.shape[-1] == square.shape[-2]
    on_diagonal = torch.eye(square.shape[-1], dtype=torch.bool, device=x.device)
    return torch.where(on_diagonal, src.unsqueeze(-1), square).movedim((-2, -1), (dim1, dim2))


def _nodes(module: nn.Module) -> list[tuple[torch.fx.GraphModule, torch.fx.Node]]:
    """All nodes with the graph that each is in: regions in which autocast is off have graphs of their own."""
    parts = [part for part in module.modules() if isinstance(part, torch.fx.GraphModule)]
    return [(part, node) for part in parts for node in part.graph.nodes]
