"""Trade time for memory: keep a stage's input instead of everything that its backward pass needs."""

from __future__ import annotations

from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper


def checkpoint_activations(network: nn.Module) -> None:
    """Recompute the activations of ``network``'s stages in the backward pass.

    Stages are the entries of the lists in its parts, ``encoder.stages``, ``decoder.stages`` and so on, and each
    sequence there, such as ``encoder.stem``, as a whole: an activation that works in place must not be computed again
    apart from the layer whose result it overwrites. (A part that iterated over a sequence would pass the wrapper by.)
    torch's wrapper keeps the names of parameters, and so of checkpoints, as they are.
    """
    for part in network.children():
        for name, child in part.named_children():
            if isinstance(child, nn.ModuleList):
                for index, stage in enumerate(child):
                    child[index] = checkpoint_wrapper(stage)
            elif isinstance(child, nn.Sequential | StackedConvBlocks):
                setattr(part, name, checkpoint_wrapper(child))
