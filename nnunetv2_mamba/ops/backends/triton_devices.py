"""Whether Triton can compile and run a kernel on a device: asked before any of ours does, and before torch.compile."""

from functools import cache

import torch

from . import c_compiler, compiler_caches, toolchain


@cache
def available(device: torch.device) -> str | None:
    """Why no Triton kernel runs on `device`, with the remedy; None if nothing is known against it.

    Raises:
        CheckPostponedError: The device has no memory or is in use.
        DeviceLostError: Nothing works on the device any more.
    """
    if not torch.cuda.is_available():
        return "torch sees no CUDA device; install a CUDA build of torch on a machine with an NVIDIA GPU"
    try:
        if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
            return "triton needs an NVIDIA GPU of compute capability 7.0 or higher; the torch backend runs on this one"
        import triton

        compiler_caches.provide()
        c_compiler.provide()
        with torch.cuda.device(device):  # compiles its C code for the driver, as a kernel's launcher is compiled later
            triton.runtime.driver.active.get_current_target()
    except ImportError as error:
        return f"triton cannot be imported ({error}); 'pip install triton' (on Windows triton-windows)"
    except Exception as error:  # whatever a compiler or a driver can raise
        return f"triton does not work here: {toolchain.explained(error, device)}"
    return None
