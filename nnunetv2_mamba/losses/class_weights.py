"""Weights of the classes in a cross-entropy."""

import torch


def median_frequency_weights(voxels: torch.Tensor) -> torch.Tensor:
    """Balance classes by the median frequency over each class's own, after Eigen & Fergus (ICCV 2015), but with each
    class's share of all voxels; theirs is of the voxels of those images in which the class occurs.

    Args:
        voxels: ``(classes,)``, how many voxels of each class the training data hold.

    Returns:
        float32 ``(classes,)``; 0 for a class without voxels, which no cross-entropy term meets.

    Raises:
        ValueError: if there are no voxels at all.
    """
    present = voxels > 0
    if not present.any():
        raise ValueError("voxels counts no voxel of any class; is the training set empty?")
    counts = voxels.double()
    return torch.where(present, counts[present].quantile(0.5) / counts.clamp(min=1), 0).float()
