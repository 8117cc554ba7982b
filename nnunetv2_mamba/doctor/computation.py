"""Whether scan and networks compute what they should, on every kind of device here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .findings import WARNING, Finding, guarded

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4  # of the scan on a device against its definition, relative, fp32
SIZE = (16, 16, 16)  # of an image, in voxels
_CALLED = {"directional_scan": "scan", "directional_ssd": "Mamba-2", "causal_conv1d": "convolution"}


def devices() -> Iterator[Finding]:
    """Try scan and networks on the CPU and on every kind of accelerator that torch can use here."""
    import torch

    kinds = ["cpu"]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("cuda", ", ".join(names))
        one_of_each = [names.index(name) for name in dict.fromkeys(names)]
        kinds += ["cuda"] if len(one_of_each) == 1 else [f"cuda:{index}" for index in one_of_each]
    if torch.backends.mps.is_available():
        kinds.append("mps")
    for kind in kinds:
        device = torch.device(kind)
        yield from guarded(f"scan on {kind}", scan(device))
        yield from guarded(f"networks on {kind}", networks(device))


def backends(device: "torch.device") -> Iterator[Finding]:
    """Find out what computes each operator, and why, in every precision that networks are trained in on the device."""
    import torch

    from ..ops.backend_selection import OPERATORS, Choice, choose

    dtypes = [torch.float32]
    if device.type == "cuda":  # its kernels for 16 bits are others, checked for themselves
        dtypes.append(torch.float16)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            dtypes.append(torch.bfloat16)
    for operator in OPERATORS:
        choices: dict[Choice, list[str]] = {}
        for dtype in dtypes:
            choice = choose(device, (dtype,), operator=operator)
            choices.setdefault(choice, []).append(str(dtype).removeprefix("torch."))
        for (name, reason, stands_in), precisions in choices.items():
            where = "" if len(dtypes) == 1 else f" ({', '.join(precisions)})"
            remedy = "as this line says; without it, everything works, but slower" if stands_in else None
            verdict = WARNING if stands_in else ""
            yield Finding(f"{_CALLED[operator]} on {device}", f"{name}{where}: {reason}", remedy, verdict)


def scan(device: "torch.device") -> Iterator[Finding]:
    """Find out which backends compute the operators, and whether the scan gives what its definition says."""
    import torch

    from ..ops import directional_scan, scan_order
    from ..ops.backend_selection import choose

    subject = f"scan on {device}"
    yield from backends(device)
    name = choose(device, (torch.float32,)).name

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
    """Try a small forward and backward pass of each network; one that fails, perhaps a stranger's, hides no other."""
    from ..architectures.registry import NETWORKS

    for name in NETWORKS:
        yield from guarded(f"{name} on {device}", _network(name, device))


def _network(name: str, device: "torch.device") -> Iterator[Finding]:
    import torch

    network, size = small_network(name)
    network.to(device)(torch.randn(1, 2, *size, device=device)).square().mean().backward()
    finite = all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    text = "forward and backward pass work" if finite else "a gradient is missing or not finite"
    yield Finding(f"{name} on {device}", text, None if finite else "report this output")


def small_network(name: str) -> "tuple[torch.nn.Module, tuple[int, ...]]":
    """Make a small instance of a registered network, for images of two channels and three classes.

    Returns:
        The network, and the size of its images: ``SIZE``, or the next larger one that it takes.
    """
    import torch

    from ..architectures.from_plans import with_options
    from ..architectures.registry import NETWORKS
    from ..architectures.topology import fitting_size

    registered = NETWORKS[name]
    network_class = registered.network_class
    strides, kernels = network_class.stages([[1, 1, 1], [2, 2, 2], [2, 2, 2]], [[3, 3, 3]] * 3)
    size = fitting_size(SIZE, strides, network_class.takes_one_voxel)
    small = {
        "input_channels": 2,
        "n_stages": len(strides),
        "features_per_stage": [8, 16, 32],
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": kernels,
        "strides": strides,
        "num_classes": 3,
    }
    options = {**registered.options, **registered.small}
    return network_class(**with_options(network_class, small, options, size)), size
