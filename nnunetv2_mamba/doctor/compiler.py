"""Whether a network compiles, as nnU-Net has it done on GPUs."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from ..text import short_reason
from .computation import small_network
from .findings import NOTE, WARNING, Finding

if TYPE_CHECKING:
    import torch

SUBJECT = "torch.compile"
TIME_LIMIT = 180.0  # seconds
GO_ON = "trainings go on uncompiled, which is slower"


def compilation() -> Iterator[Finding]:
    """Try the forward and backward pass of a small compiled network.

    On a GPU it is the default compiler, which nnU-Net uses there. Elsewhere nnU-Net does not compile, and only what
    comes before the compiler is tried, in seconds.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    if os.name == "nt":
        yield Finding(SUBJECT, "not tried: nnU-Net does not compile on Windows", verdict=NOTE)
        return
    if on_gpu and os.environ.get("nnUNet_compile", "true").lower() not in ("true", "1", "t"):
        text = f"not tried: nnUNet_compile={os.environ['nnUNet_compile']} switches it off"
        yield Finding(SUBJECT, text, verdict=NOTE)
        return
    if on_gpu and (problem := _known_problem()) is not None:
        yield Finding(SUBJECT, f"cannot work: {problem}", "as this line says; " + GO_ON, WARNING)
        return
    device, backend = (torch.device("cuda"), "inductor") if on_gpu else (torch.device("cpu"), "aot_eager")
    where = "" if on_gpu else " into one graph; nnU-Net compiles on GPUs only, so the compiler itself was not tried"
    try:
        with _time_limit(), _quiet():
            difference = _compile_small_network(device, backend)
    except Exception as error:
        yield Finding(SUBJECT, f"fails: {short_reason(error)}; {GO_ON}", _remedy(str(error)), WARNING)
        return
    if not difference < 1e-3:  # true for NaN
        text = f"the compiled network computes something else (relative difference {difference:.0e})"
        yield Finding(SUBJECT, text, "set nnUNet_compile=false and report this output")
        return
    yield Finding(SUBJECT, f"a small SegMamba compiles{where}")


def _known_problem() -> str | None:
    """What our trainers know before they compile, and then do not."""
    import torch

    from ..trainers.compilation import compiler_problem

    return compiler_problem(torch.device("cuda", torch.cuda.current_device()))


def _compile_small_network(device: torch.device, backend: str) -> float:
    """Return the relative difference of its compiled output; the backward pass is compiled too."""
    import torch

    network, size = small_network("SegMamba")  # two grids with tri-oriented layers, each with its table of paths
    network.to(device)
    image = torch.randn(1, 2, *size, device=device)
    truth = network(image)
    torch._dynamo.reset()
    result = torch.compile(network, backend=backend, fullgraph=True)(image)
    result.square().mean().backward()
    return ((result - truth).abs().max() / truth.abs().max()).item()


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise TimeoutError after ``TIME_LIMIT``, where Python can: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {TIME_LIMIT:.0f} seconds")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and logs: what the compiler has to say is said by its exception."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _remedy(message: str) -> str:
    from ..ops.backends.toolchain import remedy  # imports torch

    if (found := remedy(message)) is not None:
        return found
    if "triton" in message.lower():
        return "pip install the version of triton that this torch requires (pip show torch names it)"
    return "set nnUNet_compile=false, with which nnU-Net does not try, and report this output"
