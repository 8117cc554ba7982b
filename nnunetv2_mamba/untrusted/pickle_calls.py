"""What a pickle calls, before it is loaded: some functions that PyTorch lets pickles call take memory without bound.

``torch.load(weights_only=True)`` runs nobody's code, but a kilobyte may have it copy a container a thousand times, or
write out a tensor that repeats one stored number. Calls build tensors here, ordered dicts, and numbers of NumPy, from
arguments that are short; what else PyTorch's unpickler does takes memory in proportion to the pickle.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import Any, BinaryIO

_BUILDERS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        "torch.device",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "_codecs.encode",  # bytes, for NumPy's numbers
    }
)
_SHORT = 64  # items of a tuple (axes of a tensor, say) and letters of a text


class _Function(str):
    """The name of a function or class."""


class _Dict(list):
    """The keys and values of a dict."""


_RESULT = object()  # of a call, or a storage


def check_calls(stream: BinaryIO) -> None:
    """Read a pickle up to its end.

    Only the commands that PyTorch's unpickler knows are followed, and so no other is let through.

    Raises:
        ValueError: where it is damaged, or a function takes something long.
        pickle.UnpicklingError: where it calls another function, which the message names as PyTorch's does.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for opcode, value, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "GLOBAL":
                stack.append(_Function(value.replace(" ", ".")))
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append(_Dict())
            case "TUPLE":
                start = marks.pop()
                stack[start:] = [tuple(stack[start:])]
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                start = len(stack) - int(opcode.name[-1])
                stack[start:] = [tuple(stack[start:])]
            case "APPEND" | "SETITEM":
                start = len(stack) - (1 if opcode.name == "APPEND" else 2)
                _put(stack, start)
            case "APPENDS" | "SETITEMS":
                _put(stack, marks.pop())
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "BINPERSID":
                stack[-1] = _RESULT
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                _check_call(function, arguments)
                stack.append(_RESULT)
            case "BUILD":
                _check_state(stack.pop())
            case _ if not opcode.stack_before and len(opcode.stack_after) == 1:  # a number or text, None
                stack.append(value)
            case name:
                raise pickle.UnpicklingError(f"GLOBAL {name}")


def _put(stack: list[Any], start: int) -> None:
    """Move what lies on the stack from ``start`` on into the container below it."""
    if isinstance(stack[start - 1], list):
        stack[start - 1].extend(stack[start:])
    del stack[start:]


def _check_call(function: Any, arguments: Any) -> None:
    if not isinstance(function, _Function) or function not in _BUILDERS:
        raise pickle.UnpicklingError(f"GLOBAL {function if isinstance(function, _Function) else 'a call'}")
    allowed = isinstance(arguments, tuple) and all(map(_is_short, arguments))
    if function == "collections.OrderedDict":  # of a tensor it would make a list
        allowed = allowed and not arguments
    elif function == "torch.Size":
        allowed = allowed and all(isinstance(sizes, tuple) for sizes in arguments)
    if not allowed:
        raise ValueError(f"it calls {function} with what PyTorch does not write")


def _check_state(state: Any) -> None:
    """``state`` of an ordered dict is a dict of attributes, of NumPy's types a tuple of numbers."""
    is_dict_or_numbers = isinstance(state, _Dict) or (isinstance(state, tuple) and _RESULT not in state)
    if not is_dict_or_numbers or not _is_short(state):
        raise ValueError("it has an object of a state that PyTorch does not write")


def _is_short(value: Any) -> bool:
    return not isinstance(value, str | tuple | list) or len(value) <= _SHORT
