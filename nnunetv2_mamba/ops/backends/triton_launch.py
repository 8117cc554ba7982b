"""What the Triton backends share on the host: launches, kernels compiled ahead of them, strides, sums of parts.

A backend's functions take the function that launches as an argument, so that the same code says what would be launched:
`compile_ahead` compiles that. Compiling is most of what Triton does in C++ and in NVIDIA's assembler, which threads do
side by side.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

from ..scan_arguments import ScanArguments

# No software pipelining: the loops do it themselves, or it would need more shared memory than the older GPUs have.
# Fused multiply-add even where triton's default is to have none.
OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}

# For kernels that ptxas would rather let spill than leave one block less room on a multiprocessor.
ALL_REGISTERS = {"maxnreg": 255}

Launch = Callable[..., None]  # of (file of the kernel, its name, grid, *arguments, num_warps, **constants)


def launch_kernel(
    file: str, kernel: str, grid: tuple[int, ...], *arguments: object, num_warps: int, **constants: object
) -> None:
    """Run a kernel of a file beside this one on the current device and stream."""
    _kernel(file, kernel)[grid](*arguments, num_warps=num_warps, **_for_this_gpu(constants))


def compile_ahead(use: Callable[[Launch], object], device: torch.device | None = None) -> list:
    """Compile every kernel that `use` launches, several at a time, and launch none.

    Args:
        use: Calls a backend's functions on tensors of the meta device with the launch that it is given.
        device: The GPU to compile for; None for whatever Triton's active driver says, which need not be a GPU.

    Returns:
        Triton's compiled kernels, in the order of the launches. They are in Triton's caches, too.
    """
    launches = []
    on_device = -1 if device is None else device
    with torch.cuda.device(on_device):
        use(lambda *arguments, **options: launches.append((arguments, options)))
    # Launches of a kernel with the same constants are as a rule one program, which one thread compiles once.
    programs: dict[tuple, list[int]] = {}
    for index, ((file, kernel, *_), constants) in enumerate(launches):
        programs.setdefault((file, kernel, *sorted(constants.items())), []).append(index)

    def compiled(indices: list[int]) -> list:
        with torch.cuda.device(on_device):  # it is a thread's own
            return [_compiled(*launches[index]) for index in indices]

    def compiled_beside_others(indices: list[int]) -> list | None:
        # CPython before 3.11.8 and 3.12.2 raises SystemError where two threads parse Python at a time (gh-106905), of
        # which Triton may make an error of its own; what is wrong with the kernel is raised again below.
        try:
            return compiled(indices)
        except Exception:
            return None

    with ThreadPoolExecutor(max(1, len(programs))) as threads:
        results = list(threads.map(compiled_beside_others, programs.values()))
    in_order = {}
    for indices, kernels in zip(programs.values(), results, strict=True):
        in_order |= zip(indices, compiled(indices) if kernels is None else kernels, strict=True)
    return [in_order[index] for index in range(len(launches))]


@lru_cache(maxsize=256)
def compile_scan(
    forward: Callable, backward: Callable, kind: tuple, forward_only: bool, device: torch.device | None
) -> None:
    """Compile, side by side, what the first scan of a kind launches and what its gradients will.

    Args:
        forward, backward: a backend's `scan_forward` and `scan_backward`.
        kind: of the `ScanArguments`, by `kind_of`.
        device: as for `compile_ahead`.
    """
    scan = ScanArguments(*of_kind(kind))

    def use(launch: Launch) -> None:
        out, states = forward(scan, launch)
        if not forward_only:
            backward(torch.empty_like(out), scan, states, launch)

    compile_ahead(use, device)


def _compiled(arguments: tuple, options: dict):
    file, kernel, grid, *arguments = arguments
    return _kernel(file, kernel).warmup(*arguments, grid=grid, **_for_this_gpu(options))


def _for_this_gpu(constants: dict) -> dict:
    """The constants of a kernel and the compiler's options; a bound of registers is for NVIDIA's."""
    constants = {**constants, **OPTIONS}
    if torch.version.hip is not None:
        constants.pop("maxnreg", None)
    return constants


def _kernel(file: str, kernel: str):
    return getattr(import_module(f"{__package__}.{file}"), kernel)


def kind_of(tensors: tuple) -> tuple:
    """The values, tensors replaced by (shape, strides, dtype): the key of what is compiled for them."""
    return tuple((t.shape, t.stride(), t.dtype) if isinstance(t, Tensor) else t for t in tensors)


def of_kind(kind: tuple) -> tuple:
    """Values of a `kind_of`, with tensors of the meta device."""
    return tuple(
        torch.empty_strided(value[0], value[1], dtype=value[2], device="meta") if isinstance(value, tuple) else value
        for value in kind
    )


def multiprocessors(device: torch.device) -> int:
    """Of a GPU; for tensors that are on none, those of an H100."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def rows(t: Tensor) -> tuple[int, int]:
    """Strides of a (b, L, d) tensor between sequences and between tokens."""
    return t.stride(0), t.stride(1)


def sequences(t: Tensor) -> tuple[int, int, int]:
    """Strides of a (b, K, L, d) tensor, or of a (b, L, d) tensor that the K directions share."""
    return t.stride()[:3] if t.ndim == 4 else (t.stride(0), 0, t.stride(1))


def contiguous(parameter: Tensor | None, placeholder: Tensor) -> Tensor:
    """A kernel takes a pointer even for what is not given; it is never read."""
    return placeholder if parameter is None else parameter.contiguous()


def dtype_of_parts(dtype: torch.dtype, several: bool = True) -> torch.dtype:
    """For a gradient in parts, of which there may be several: fp16 may hold their sum, but not all of them."""
    return torch.float32 if several and dtype == torch.float16 else dtype


def sum_of_parts(parts: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    # `sum` with a dtype would convert the parts first, into memory of their own.
    return (parts.squeeze(dim) if parts.shape[dim] == 1 else parts.sum(dim)).to(dtype)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
