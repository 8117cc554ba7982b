"""What every network declares: the contract that nnU-Net, the planners and the trainers rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures

from .blocks.decoder import Decoder
from .topology import Topology


class PlannedNetwork(AbstractDynamicNetworkArchitectures):
    """A network that an nnU-Net plan describes: encoder, perhaps a bottleneck, decoder.

    Its constructor takes ``input_channels, n_stages, features_per_stage, conv_op, kernel_sizes, strides, num_classes,
    deep_supervision`` in dynamic-network-architectures' dialect, then its own options by name, all with a default or
    with a value from ``patch_options``. Every network has the option ``mixer`` (see ``blocks.mixers``).

    Args:
        topology: the plan's stages, checked.
        input_channels: of the images.

    Attributes:
        PLANNED_ARGUMENTS: those of the constructor that follow from the plan's stages and the data set.
        PATCH_ARGUMENTS: those that follow from its patch size (``patch_options``).
        widths_from_plan: in plans made for other networks, take their widths, not those of the paper.
        key_to_encoder, key_to_stem: the modules into which pre-trained weights go.
        keys_to_in_proj: the layer that reads the images; several names only if they are of one weight, as
            dynamic-network-architectures has it.
        key_to_lpe: the parameter of a learned position embedding; None if there is none.
        keys_to_bottleneck: modules between encoder and decoder, which pre-training trains too.
        encoder, decoder: the halves; nnU-Net switches ``decoder.deep_supervision``.
    """

    PLANNED_ARGUMENTS: ClassVar[tuple[str, ...]] = (
        "input_channels", "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "num_classes",
        "deep_supervision",
    )  # fmt: skip
    PATCH_ARGUMENTS: ClassVar[tuple[str, ...]] = ()
    widths_from_plan: ClassVar[bool] = False
    key_to_encoder: str = "encoder"
    key_to_stem: str
    keys_to_in_proj: Sequence[str]
    key_to_lpe: str | None
    keys_to_bottleneck: Sequence[str] = ()
    decoder: Decoder

    def __init__(self, topology: Topology, input_channels: int):
        super().__init__()
        self.topology, self.input_channels = topology, input_channels

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """The paper's widths, for any number of stages."""
        raise NotImplementedError

    @classmethod
    def patch_options(cls, patch_size: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``PATCH_ARGUMENTS``.

        Args:
            patch_size: of the plan.
            arguments: the other arguments of the constructor.
        """
        return {}
