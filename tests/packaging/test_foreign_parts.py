"""A container has this package and nnU-Net: what other packages registered is refused before anything is written."""

from dataclasses import replace

import pytest

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.architectures.blocks.mixers import MIXERS
from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.packaging.build_context import Request, write_context
from nnunetv2_mamba.trainers import nnUNetTrainerUMambaBot


@pytest.mark.parametrize(
    ("part", "owner"),
    [("network UMambaBot", nnUNetTrainerUMambaBot.network_class), ("mixer mamba2", MIXERS["mamba2"])],
)
def test_a_part_of_another_package(part, owner, trained_model, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    monkeypatch.setattr(nnUNetTrainerUMambaBot, "network_options", {"mixer": "mamba2"})
    monkeypatch.setattr(owner, "__module__", "my_mamba.part")
    with pytest.raises(ValueError, match=f"the {part} comes from my_mamba.part, which the container would not have"):
        write_context(Request(trained_model.folder, "flare"), tmp_path / "context")
    assert not (tmp_path / "context").exists()


def test_a_network_that_another_package_made_of_ours(trained_model, tmp_path, monkeypatch):
    """Its trainer is this package's, made of what the other one registered."""
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    monkeypatch.setitem(NETWORKS, "UMambaBot", replace(NETWORKS["UMambaBot"], module="my_mamba.part"))
    with pytest.raises(ValueError, match="the registration of the network UMambaBot comes from my_mamba.part, which"):
        write_context(Request(trained_model.folder, "flare"), tmp_path / "context")
