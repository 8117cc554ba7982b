"""A GPU that is not there: what torch's dispatcher does with its tensors, whose values nobody computes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def _works() -> bool:
    try:
        with FakeTensorMode(), torch.device("cuda"):
            torch.nn.Linear(1, 1)
    except RuntimeError:
        return False
    return True


needs_fake_gpu = pytest.mark.skipif(
    not _works(), reason="fake CUDA tensors need a CUDA build of torch, before 2.10 also a driver"
)
