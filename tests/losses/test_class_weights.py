import pytest
import torch

from nnunetv2_mamba.losses import median_frequency_weights


def test_median_class_weighs_one_and_rare_classes_more():
    weights = median_frequency_weights(torch.tensor([1000, 100, 10]))
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([0.1, 1.0, 10.0])


def test_absent_class_weighs_nothing_and_does_not_move_the_median():
    assert median_frequency_weights(torch.tensor([1000, 0, 100, 10])).tolist() == pytest.approx([0.1, 0.0, 1.0, 10.0])


def test_balances_classes():
    voxels = torch.tensor([7_000_000, 30_000, 512, 90])
    shares = median_frequency_weights(voxels) * voxels
    torch.testing.assert_close(shares, shares[:1].expand(4))


def test_no_voxels():
    with pytest.raises(ValueError, match="no voxel"):
        median_frequency_weights(torch.zeros(3, dtype=torch.long))
