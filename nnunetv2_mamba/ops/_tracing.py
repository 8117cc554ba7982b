"""One mark that lets torch.compile trace through the package's Python bookkeeping."""

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)


def constant_when_traced(function: F) -> F:
    """Let torch.compile call `function` while it traces and keep the result as a constant.

    This is `torch.compiler.assume_constant_result`, which cannot be used here: it imports torch._dynamo, and with it
    triton, at decoration time. That costs every import of the package seconds; setting its mark costs nothing.
    """
    function._dynamo_marked_constant = True
    return function
