"""Which of this package's operators run, and on what."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OperatorCalls(TorchDispatchMode):
    """For every operator of this package, the dtypes of the tensors that each call was given."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, list[list[torch.dtype]]] = {}

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(calls) for name, calls in self.dtypes.items()}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.namespace == "nnunetv2_mamba":
            given = [t.dtype for t in arguments if isinstance(t, torch.Tensor)]
            self.dtypes.setdefault(function.__name__.removesuffix(".default"), []).append(given)
        return function(*arguments, **(keywords or {}))
