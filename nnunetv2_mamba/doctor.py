"""``nnunetv2_mamba doctor``: examines an installation and says what to do where something is wrong."""

import contextlib
import io
import os
import platform
import shlex
import site
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from . import _register

if TYPE_CHECKING:
    import torch

PACKAGES = ("nnunetv2", "torch", "triton", "mamba-ssm", "causal-conv1d")  # what is missing shows in the checks below
TOLERANCE = 1e-4  # of the scan on a device against its definition, relative, fp32


@dataclass(frozen=True)
class Finding:
    """One line of the report; with a remedy, something is wrong."""

    subject: str
    text: str
    remedy: str | None = None


def examine() -> int:
    """Print every finding and return the exit code: 1 if one of them needs a remedy."""
    problems = 0
    for check in (versions, folders, start_up, trainers, devices):
        for finding in _guarded(check.__name__, check()):
            verdict = "ok" if finding.remedy is None else "PROBLEM"
            print(f"{verdict:<9}{finding.subject:<22}{finding.text}", flush=True)
            if finding.remedy is not None:
                problems += 1
                print(f"{'':<9}remedy: {finding.remedy}", flush=True)
    print("\nEverything works." if not problems else f"\nProblems: {problems}")
    return 1 if problems else 0


def _guarded(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings; an exception on the way is a finding, too, and ends them."""
    try:
        yield from findings
    except ImportError as error:
        yield Finding(subject, f"cannot be examined: {error}", "pip install nnunetv2-mamba installs what is missing")
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding(subject, text, "what the message says, else solve the problems above; else report this output")


def versions() -> Iterator[Finding]:
    """Versions of Python and of the packages that matter."""
    yield Finding("python", f"{platform.python_version()}, {platform.platform()}, {sys.executable}")
    yield Finding("nnunetv2-mamba", f"{_version('nnunetv2-mamba')}, {Path(__file__).parent}")
    for package in PACKAGES:
        yield Finding(package, _version(package))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def folders() -> Iterator[Finding]:
    """nnU-Net's three folders: information, since not every use needs all of them."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        value = os.environ.get(name)
        if value is None:
            yield Finding(name, "not set")
        else:
            yield Finding(name, value if Path(value).is_dir() else f"{value} (no such folder)")


def start_up() -> Iterator[Finding]:
    """Whether the start-up file has put our folder on nnUNet_extTrainer."""
    value = os.environ.get("nnUNet_extTrainer", "")
    complete = _register.with_discovery(value)
    if value == complete:
        yield Finding("nnUNet_extTrainer", value)
        return
    assign = "$Env:nnUNet_extTrainer = " if os.name == "nt" else "export nnUNet_extTrainer="
    yield Finding("nnUNet_extTrainer", f"lacks our folder: {_why_not_registered()}", assign + shlex.quote(complete))


def _why_not_registered() -> str:
    if os.environ.get("NNUNETV2_MAMBA_AUTOREGISTER") == "0":
        return "NNUNETV2_MAMBA_AUTOREGISTER=0 switches the start-up file off"
    if sys.flags.no_site:
        return "Python runs without start-up files (option -S)"
    homes = [*site.getsitepackages(), site.getusersitepackages()]
    if not any((Path(home) / "nnunetv2_mamba.pth").is_file() for home in homes):
        return "no start-up file in site-packages (is the package on PYTHONPATH only?)"
    return "the start-up file is there but had no effect, or the variable was overwritten later"


def trainers() -> Iterator[Finding]:
    """Whether nnU-Net's own search finds our trainers under their names."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from . import trainers

    # nnU-Net's search takes a while; the length variants come from the same file as the trainer that they vary
    names = sorted(name for name in trainers.__all__ if not name.endswith(("epoch", "epochs")))
    for name in names:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                found = recursive_find_trainer_class_by_name(name)
            except RuntimeError:
                found = None
        if found is None:
            yield Finding("trainers", f"nnU-Net does not find {name}", "set nnUNet_extTrainer as said above")
            return
        if found is not getattr(trainers, name):
            text = f"nnU-Net finds another {name}, in the module {found.__module__}"
            yield Finding("trainers", text, "rename or remove that class")
            return
    yield Finding("trainers", f"nnU-Net finds {', '.join(names)}, and each with the suffix _5epochs and so on")


def devices() -> Iterator[Finding]:
    """Scan and networks on the CPU and on every kind of accelerator that torch can use here."""
    import torch

    kinds = ["cpu"]
    if torch.cuda.is_available():
        kinds.append("cuda")
        yield Finding("cuda", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    if torch.backends.mps.is_available():
        kinds.append("mps")
    for kind in kinds:
        device = torch.device(kind)
        yield from _guarded(f"scan on {kind}", scan(device))
        yield from _guarded(f"networks on {kind}", networks(device))


def scan(device: "torch.device") -> Iterator[Finding]:
    """Which backend computes the scan, why, and whether it gives what the definition says."""
    import torch

    from .ops import directional_scan, scan_order
    from .ops.selection import choose_backend

    subject = f"scan on {device}"
    name, reason = choose_backend(device, torch.float32)
    yield Finding(subject, f"{name}: {reason}")

    generator = torch.Generator().manual_seed(0)
    paths = scan_order.tri_oriented((4, 6, 5), device)
    directions, length = paths.shape
    channels, states = 8, 4
    u = torch.randn(1, length, channels, generator=generator).to(device)
    delta = torch.randn(1, directions, length, channels, generator=generator).to(device)
    A = -torch.rand(directions, channels, states, generator=generator).to(device)
    B, C = torch.randn(2, 1, directions, length, states, generator=generator).to(device)
    result = directional_scan(u, delta, A, B, C, paths, delta_softplus=True, backend=name)
    truth = directional_scan(u, delta, A, B, C, paths, delta_softplus=True, backend="reference")
    error = ((result - truth).abs().max() / truth.abs().max()).item()
    text = f"largest difference from the definition {error:.0e}, relative to the largest value"
    wrong = not error < TOLERANCE  # true for NaN
    yield Finding(subject, text, "set NNUNETV2_MAMBA_SCAN=torch and report this output" if wrong else None)


def networks(device: "torch.device") -> Iterator[Finding]:
    """A small forward and backward pass of each network."""
    import torch

    from .architectures import MedSegMamba, MSDKMamba, SegMamba, UMambaBot, UMambaEnc

    small = {
        "input_channels": 2,
        "n_stages": 3,
        "features_per_stage": [8, 16, 32],
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": 3,
        "strides": [1, 2, 2],
        "num_classes": 3,
    }
    for build, options in (
        (SegMamba, {}),
        (MedSegMamba, {"bottleneck_channels": 32, "n_bottleneck_blocks": 1}),
        (UMambaBot, {}),
        (UMambaEnc, {"patch_size": (16, 16, 16)}),
        (MSDKMamba, {}),
    ):
        network = build(**small, **options).to(device)
        network(torch.randn(1, 2, 16, 16, 16, device=device)).square().mean().backward()
        finite = all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
        text = "forward and backward pass work" if finite else "a gradient is missing or not finite"
        yield Finding(f"{build.__name__} on {device}", text, None if finite else "report this output")
