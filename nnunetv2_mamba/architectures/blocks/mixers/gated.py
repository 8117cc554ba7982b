"""What Mamba's blocks and their controls share: input projection, gate, norm after it, output projection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from .registry import MixerOptions, SequenceMixer

_LARGE = 2**23  # numbers from the input projection of one sample: work enough for any GPU


class NormAfterGate(nn.RMSNorm):
    """Mamba-2's RMS norm, of gated tokens: in the precision of its weights, because squares of fp16 leave its range."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class GatedMixer(SequenceMixer):
    """``out_proj(gate(sequence part))`` of Mamba's block (Gu & Dao 2023, figure 3); a subclass has ``mix``.

    In training on a GPU, the samples of a batch follow each other where the grid is large: what the backward pass
    computes again, and its gradients, are then one sample's at a time.

    Args:
        options: of which ``d_model`` and ``expand`` concern this part.
        projected: numbers that a token is projected to; by default as many as there are inputs and gates.
    """

    def __init__(self, options: MixerOptions, projected: int | None = None):
        super().__init__()
        self.in_proj = nn.Linear(options.d_model, projected or 2 * options.inner, bias=False)
        self.out_proj = nn.Linear(options.inner, options.d_model, bias=False)

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        if self._one_by_one(tokens):
            return torch.cat([self.out_proj(self.mix(sample, grid)) for sample in tokens.split(1)])
        return self.out_proj(self.mix(tokens, grid))

    def mix(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """``(batch, length, d_model)`` to ``(batch, length, expand * d_model)``: all before ``out_proj``."""
        raise NotImplementedError

    def _one_by_one(self, tokens: torch.Tensor) -> bool:
        # Fake tensors count what a GPU needs (memory/estimate.py). On a CPU it would leave threads without work.
        on_gpu = tokens.is_cuda or isinstance(tokens, FakeTensor)
        large = tokens.shape[1] * self.in_proj.out_features >= _LARGE
        return self.training and on_gpu and large and len(tokens) > 1
