"""The C++ kernels of `ops/csrc`: a plain C library that is called through ctypes.

The library comes with the wheel or is compiled on first use (`cpu_build`). It holds the kernels for several
instruction sets and the best that the CPU has is used; NNUNETV2_MAMBA_CPU_ISA names another one (x86-64-v2, ...). Work
is spread over `torch.get_num_threads()` threads; the bits of a result depend on that number and on the instruction set.

The kernels compute in one dtype, fp32 or fp64: tensors of another dtype, such as bf16, are converted on the way in.
"""

import ctypes
import os
from ctypes import POINTER, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from . import cpu_build, forked

_LARGE = 4 << 20  # bytes


def available(device: torch.device | None = None) -> str | None:
    """None if the library is there or could be compiled; otherwise the reason and the remedy. There is but one CPU."""
    library = loaded()
    return library if isinstance(library, str) else None


def fresh(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor, on huge pages where that pays: glibc takes blocks of this size fresh from the system."""
    tensor = like.new_empty(shape)
    library = loaded()
    if tensor.nbytes >= _LARGE and not isinstance(library, str):
        library.functions.nm_advise_huge_pages(tensor.data_ptr(), tensor.nbytes)
    return tensor


class _View(ctypes.Structure):
    """A tensor of rows (b, K, L, row) or, without a direction axis, (b, L, row); see csrc/kernels.h."""

    _fields_ = [("data", c_void_p), ("batch", c_int64), ("direction", c_int64), ("token", c_int64)]


class ScanArgs(ctypes.Structure):
    """Of both scans; heads and groups are zero for Mamba's."""

    _fields_ = [
        *((name, c_int64) for name in ("batch", "directions", "length", "channels", "state_size", "chunk", "softplus")),
        *((name, c_int64) for name in ("heads", "groups")),
        *((name, c_void_p) for name in ("paths", "A", "D", "delta_bias")),
        *((name, _View) for name in ("u", "delta", "B", "C", "z", "out")),
        ("states", c_void_p),
        *((name, _View) for name in ("grad_out", "du", "ddelta", "dB", "dC", "dz")),
        *((name, c_void_p) for name in ("dA", "dD", "ddelta_bias")),
    ]


class ConvArgs(ctypes.Structure):
    """Of the causal convolution."""

    _fields_ = [
        *((name, c_int64) for name in ("batch", "directions", "length", "channels", "width", "silu")),
        *((name, c_void_p) for name in ("paths", "weight", "bias")),
        *((name, _View) for name in ("x", "out", "grad_out", "dx")),
        *((name, c_void_p) for name in ("dweight", "dbias")),
    ]


_VIEWS = {name for args in (ScanArgs, ConvArgs) for name, kind in args._fields_ if kind is _View}


class Call:
    """The arguments of one call of the library; holds on to converted copies of tensors until it has run."""

    def __init__(self, args: ctypes.Structure, dtype: torch.dtype) -> None:
        self.args = args
        self.dtype = dtype
        self.tensors: list[Tensor] = []

    def put(self, **tensors: Tensor | None) -> None:
        """Set the fields of these names; a field stays null where the tensor is None."""
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            if tensor.is_floating_point() and tensor.dtype != self.dtype:
                tensor = tensor.to(self.dtype)
            if name in _VIEWS:
                strides = tensor.stride()
                direction = strides[1] if tensor.ndim == 4 else 0
                setattr(self.args, name, _View(self._hold(tensor), strides[0], direction, strides[-2]))
            else:
                setattr(self.args, name, self._hold(tensor.contiguous()))

    def run(self, function: str) -> None:
        """Call the library. Raises MemoryError if its scratch memory cannot be had."""
        library = loaded()
        if isinstance(library, str):
            raise RuntimeError(library)
        suffix = "f64" if self.dtype == torch.float64 else "f32"
        entry = getattr(library.functions, f"{function}_{suffix}")
        threads = torch.get_num_threads()
        if entry(ctypes.byref(self.args), library.instruction_set, threads, not forked.is_fork()):
            raise MemoryError("the CPU kernels could not allocate their scratch memory")

    def _hold(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return tensor.data_ptr()


class Library:
    """The loaded library and the instruction set to use. Raises BuildError or OSError."""

    def __init__(self) -> None:
        shipped = Path(__file__).with_name(cpu_build.LIBRARY_NAME)
        self.functions = ctypes.CDLL(str(shipped if shipped.exists() else cpu_build.cached_library()))
        for family, args in (("scan", ScanArgs), ("conv", ConvArgs)):
            for direction in ("forward", "backward"):
                for dtype in ("f32", "f64"):
                    entry = getattr(self.functions, f"nm_{family}_{direction}_{dtype}")
                    entry.argtypes = (POINTER(args), c_int64, c_int64, c_int)
                    entry.restype = c_int
        self.functions.nm_advise_huge_pages.argtypes = (c_void_p, c_int64)
        self.functions.nm_advise_huge_pages.restype = None
        self.functions.nm_instruction_set.argtypes = self.functions.nm_supported.argtypes = (c_int64,)
        self.functions.nm_instruction_set.restype = ctypes.c_char_p
        self.instruction_set = self._choose(os.environ.get("NNUNETV2_MAMBA_CPU_ISA"))

    def supported(self) -> list[str]:
        """The instruction sets of this CPU that the library has kernels for, the best last."""
        names = []
        while name := self.functions.nm_instruction_set(len(names)):
            names.append(name.decode())
        return [name for number, name in enumerate(names) if self.functions.nm_supported(number)]

    def _choose(self, wanted: str | None) -> int:
        supported = self.supported()
        if not supported:
            raise OSError("this CPU lacks SSE4.2, which the CPU kernels need")
        if wanted and wanted not in supported:
            raise OSError(f"NNUNETV2_MAMBA_CPU_ISA={wanted} is not one of this CPU's: {', '.join(supported)}")
        return supported.index(wanted) if wanted else len(supported) - 1


@cache
def loaded() -> Library | str:
    """The library, or the reason why there is none: asked once per process."""
    try:
        return Library()
    except (cpu_build.BuildError, OSError) as error:
        return str(error)
