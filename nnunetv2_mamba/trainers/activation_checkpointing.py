"""Trade time for memory: keep a stage's input instead of everything that its backward pass needs."""

from __future__ import annotations

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper


def checkpoint_activations(network: nn.Module) -> None:
    """Recompute the activations of ``network``'s stages in the backward pass.

    Stages are the entries of the lists in its parts: ``encoder.stages``, ``decoder.stages`` and so on. torch's wrapper
    keeps the names of parameters, and so of checkpoints, as they are.
    """
    for part in network.children():
        for stages in part.children():
            if isinstance(stages, (nn.ModuleList, nn.Sequential)):
                for index, stage in enumerate(stages):
                    stages[index] = checkpoint_wrapper(stage, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
