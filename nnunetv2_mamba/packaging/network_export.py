"""One patch forward of a trained model as an ONNX or torch.export file, checked against the network before it is kept.

The scan is written out by the ``torch`` backend: its steps become nodes of the graph, so the file needs neither this
package nor its operators. What that costs grows with the patch, and past ``MAX_STEPS`` it is refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from nnunetv2_mamba.ops import backend_selection
from nnunetv2_mamba.ops.backends import torch_chunked
from nnunetv2_mamba.ops.scan_arguments import ScanArguments

from ..files import written_whole
from ..text import times
from .model_files import copy_for_inference, open_model
from .network_loading import load_model

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
        fold: None for the first.

    Returns:
        What was exported and how far it is from the network.

    Raises:
        ValueError: for a network that cannot be exported, with the reason, or an export that computes something else.
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
        _refuse_long_scans(network, x, name, kind)
        try:
            result = {"onnx": _to_onnx, "torch-export": _to_torch_export}[kind](network, x, file)
        except Exception as error:  # the exporters raise what they like
            reason = f"{type(error).__name__}: {error}"[:500]
            raise ValueError(f"{name} cannot be exported with {kind}: {reason}") from error
        difference = float(np.abs(result - expected).max() / np.abs(expected).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the {kind} export of {name} differs from the network by {difference:.1e} of its largest logit, more "
                f"than {TOLERANCE:g}; {output} was not written"
            )
    return f"{name}, input {tuple(x.shape)}, output {result.shape}, largest difference {difference:.1e}"


def _load(source: Path, fold: str | None, checkpoint: str) -> tuple[nn.Module, torch.Tensor, str]:
    """The network of a fold, an input for it and its name."""
    with tempfile.TemporaryDirectory() as folder:
        slim = Path(folder) / "model"
        model = copy_for_inference(open_model(source), slim, None if fold is None else [fold], checkpoint)
        loaded = load_model(slim, model.folds[:1], checkpoint, source)
    shape = (1, loaded.n_channels, *loaded.configuration.patch_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return loaded.network.eval(), x, f"{model.trainer} (fold {model.folds[0]})"


def _to_torch_export(network: nn.Module, x: torch.Tensor, file: Path) -> np.ndarray:
    torch.export.save(_program(network, x), file)
    with torch.inference_mode():
        return torch.export.load(file).module()(x).numpy()


def _to_onnx(network: nn.Module, x: torch.Tensor, file: Path) -> np.ndarray:
    import onnxruntime

    torch.onnx.export(_program(network, x), (x,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return result


def _program(network: nn.Module, x: torch.Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad(), _scanned_by(torch_chunked.scan_forward):
        return torch.export.export(network, (x,)).run_decompositions()


def _refuse_long_scans(network: nn.Module, x: torch.Tensor, name: str, kind: str) -> None:
    steps = 0

    def count(scan: ScanArguments) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal steps
        batch, directions, length, channels = scan.delta.shape
        chunks = torch_chunked.states_shape(batch, directions, length, channels, scan.A.shape[-1])[2]
        steps += 2 * directions * -(-length // chunks)  # every chunk is walked twice, all chunks at once
        return torch_chunked.scan_forward(scan)

    with torch.inference_mode(), _scanned_by(count):
        network(x)
    if steps > MAX_STEPS[kind]:
        raise ValueError(
            f"the scans of {name} take {steps} steps for a patch of {times(x.shape[2:])}, and each step "
            f"would become nodes of the graph; more than {MAX_STEPS[kind]} are not exported with {kind}. Use a "
            "smaller patch, or UMambaBot, which scans once, at the lowest resolution"
        )


@contextmanager
def _scanned_by(scan_forward: Callable) -> Iterator[None]:
    """Have scans and convolutions made of plain operations, in place of the custom operators of the chosen backend.

    No exporter can look into those. Which backend the environment asks for does not matter here.
    """
    backend = SimpleNamespace(
        directional_scan=lambda scan: scan_forward(scan)[0],
        causal_conv1d=lambda x, weight, bias, paths, activation: torch_chunked.conv_forward(
            x, weight, bias, paths, activation == "silu"
        ),
    )
    resolve, load = backend_selection.resolve, backend_selection.load
    backend_selection.resolve, backend_selection.load = (
        (lambda *asked: backend_selection.COMPOSED[0]),
        (lambda name: backend),
    )
    try:
        yield
    finally:
        backend_selection.resolve, backend_selection.load = resolve, load
