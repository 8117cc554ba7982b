"""What every network declares: the contract that nnU-Net, the planners and the trainers rely on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from torch import nn

from .blocks.decoder import Decoder, upsampled_first
from .topology import make_topology


class PlannedNetwork(AbstractDynamicNetworkArchitectures):
    """A network that an nnU-Net plan describes: encoder, perhaps a bottleneck, decoder.

    The arguments below follow from the plan's stages and the data set, in dynamic-network-architectures' dialect. A
    network hands them on and takes its own options by name, all with a default or with a value from ``patch_options``.
    A network that mixes sequences has the option ``mixer`` (see ``blocks.mixers``). The class is registered under its
    own name (``registry.register``): plans find it as ``nnunetv2_mamba.architectures.CLASS``, trainers and planners by
    that.

    Args:
        input_channels: of the images.
        n_stages: resolutions, the bottleneck's included.
        features_per_stage: widths, one for each stage or one for all.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        kernel_sizes, strides: one for all stages, or for each stage one or one per axis.
        num_classes: channels of the logits.
        deep_supervision: whether there are heads below full resolution.

    Raises:
        ValueError: naming the argument that does not fit.
        TypeError: for an argument that is missing or that the network does not have.

    Attributes:
        PATCH_ARGUMENTS: the options that follow from the plan's patch size (``patch_options``).
        topology: the plan's stages, checked.
        widths_from_plan: in plans made for other networks, take their widths, not those of the paper.
        missing_stages: the options that have an entry per stage, and how many of the stages have none.
        options_from_plan: options that are taken from plans made for other networks which have the first of them.
        key_to_encoder, key_to_stem: the modules into which pre-trained weights go.
        keys_to_in_proj: the layer that reads the images; several names only if they are of one weight, as
            dynamic-network-architectures has it.
        key_to_lpe: the parameter of a learned position embedding, set after ``super().__init__``, which sets None.
        keys_to_bottleneck: modules between encoder and decoder, which pre-training trains too.
        takes_one_voxel: whether it computes where one voxel is left at the lowest resolution, as no instance norm does.
        encoder, decoder: the halves; nnU-Net switches ``decoder.deep_supervision``.
    """

    PATCH_ARGUMENTS: ClassVar[tuple[str, ...]] = ()
    widths_from_plan: ClassVar[bool] = False
    missing_stages: ClassVar[Mapping[str, int]] = {}
    options_from_plan: ClassVar[tuple[str, ...]] = ()
    key_to_encoder: str = "encoder"
    key_to_stem: str
    keys_to_in_proj: Sequence[str]
    key_to_lpe: str | None
    keys_to_bottleneck: Sequence[str] = ()
    takes_one_voxel: ClassVar[bool] = False
    encoder: nn.Module
    decoder: Decoder

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence,
        strides: int | Sequence,
        num_classes: int,
        deep_supervision: bool = False,
        **unknown: Any,
    ):
        if unknown:
            options = ", ".join([*self.option_names(), *self.PATCH_ARGUMENTS])
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}; its options are {options}")
        super().__init__()
        self.topology = make_topology(n_stages, features_per_stage, conv_op, kernel_sizes, strides)
        own_strides, own_kernels = self.stages(self.topology.strides, self.topology.kernel_sizes)
        for name, given, own in (
            ("strides", self.topology.strides, own_strides),
            ("kernel_sizes", self.topology.kernel_sizes, own_kernels),
        ):
            if [list(stage) for stage in given] != [list(stage) for stage in own]:
                raise ValueError(
                    f"{name} {given} are not those of {type(self).__name__}, which has {own}; use plans that "
                    f"nnunetv2_mamba plan makes for it, or its trainers, which take the patch of any plan"
                )
        self.input_channels, self.num_classes, self.conv_op = input_channels, num_classes, conv_op
        self.built_with_deep_supervision = deep_supervision

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """Return its own arguments by name, without the planned ones and those of ``PATCH_ARGUMENTS``.

        Those of a network that it is a subclass of are among them, as far as its constructor hands arguments on.
        """
        found: dict[str, inspect.Parameter] = {}
        for ancestor in cls.__mro__:
            if "__init__" not in vars(ancestor):
                continue
            parameters = inspect.signature(ancestor.__init__).parameters.values()
            own = {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY}
            found = {**own, **found}
            if not any(each.kind is each.VAR_KEYWORD for each in parameters):
                break
        return {name: parameter for name, parameter in found.items() if name not in cls.PATCH_ARGUMENTS}

    @classmethod
    def option_names(cls) -> list[str]:
        """Return the names of ``options``."""
        return list(cls.options())

    @classmethod
    def plain_option_names(cls) -> list[str]:
        """Return those of ``option_names`` that a word or JSON can give: not classes, which plans name."""
        return [name for name, parameter in cls.options().items() if not _takes_a_class(parameter)]

    def make_decoder(
        self,
        make_level: Callable[[int], tuple[nn.Module, nn.Module]],
        widths: Sequence[int] | None = None,
        join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = upsampled_first,
    ) -> Decoder:
        """Return a decoder with this network's heads.

        Args:
            make_level: called for every level but the bottleneck's, lowest resolution first (0 is full resolution);
                gives the upsampling to it, and the stage that merges the result with the skip connection.
            widths: output channels of these stages; default the plan's.
            join: see ``Decoder``.
        """
        upsamplings, stages = zip(*map(make_level, reversed(range(self.topology.n_stages - 1))), strict=True)
        widths = widths or self.topology.features[-2::-1]
        heads = self.num_classes, self.conv_op, self.built_with_deep_supervision
        return Decoder(upsamplings, stages, widths, *heads, join)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits ``(batch, num_classes, *grid)``; with deep supervision a list, highest resolution first.

        Args:
            x: ``(batch, input_channels, *grid)``, every axis a multiple of its total stride.

        Raises:
            ValueError: for an input that does not fit.
        """
        self.topology.check_input(x, self.input_channels)
        if not self.takes_one_voxel:
            self.topology.check_normalisable(x)
        return self.decoder(self.features(x))

    def features(self, x: torch.Tensor) -> list[torch.Tensor | None]:
        """Return what the decoder gets: features of every level, highest resolution first; None where no skip is."""
        return self.encoder(x)

    @classmethod
    def stages(
        cls, strides: Sequence[Sequence[int]], kernel_sizes: Sequence[Sequence[int]]
    ) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]:
        """Return the strides and kernels of the stages that the network makes of a plan's; here as they are.

        A network of a fixed form gives its own, whatever the plan has, and gives those back as they are.

        Args:
            strides, kernel_sizes: per stage and axis.
        """
        return strides, kernel_sizes

    def check_widths(self, expected: Sequence[int]) -> None:
        """Raise ValueError if the widths of the stages are not those that the form of the network asks for."""
        if list(self.topology.features) != list(expected):
            raise ValueError(
                f"features_per_stage of {type(self).__name__} must follow the first: {list(expected)}, got "
                f"{list(self.topology.features)}"
            )

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """Return the paper's widths for any number of stages; here nnU-Net's for volumes, from 32 doubling to 320."""
        return [min(32 * 2**i, 320) for i in range(n_stages)]

    @classmethod
    def patch_options(cls, patch_size: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of ``PATCH_ARGUMENTS``, as far as the network with these arguments takes them.

        Args:
            patch_size: of the plan.
            arguments: the other arguments of the constructor.
        """
        return {}


def _takes_a_class(parameter: inspect.Parameter) -> bool:
    annotation = str(parameter.annotation)  # as it is written where annotations are not evaluated
    return isinstance(parameter.default, type) or annotation.startswith("type[")
