"""The interface of sequence mixers, and their names."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..dimensions import spatial_dims
from ..fusion import check_fusion
from ..scan_paths import scan_paths
from ..sizes import check_size


@dataclass(frozen=True)
class MixerOptions:
    """What a mixer is made for. It uses what concerns it; a control of another mixer is as large as that one would be.

    Attributes:
        d_model: width of the tokens.
        conv_op: ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``; tells the number of axes of the grid.
        scan: a name of ``scan_paths.PATHS``.
        d_state, d_conv, expand: state size, width of the causal convolution, factor of the inner width.
        dt_init: see :class:`~..directional_ssm.DirectionalSSM`.
        headdim: Mamba-2's width of a head; see :func:`~..directional_ssd.head_size`.
        fusion: see :func:`~..fusion.fusion_weight`.
        controls_of: the mixer whose controls ``"none"`` and ``"conv"`` shall be.

    Raises:
        ValueError: for an unknown ``scan`` or ``fusion``, or a size that is no positive integer.
    """

    d_model: int
    conv_op: type[nn.Module]
    scan: str = "tri_oriented"
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_init: str = "all"
    headdim: int = 64
    fusion: str = "sum"
    controls_of: str = "mamba"

    def __post_init__(self) -> None:
        scan_paths(self.scan)  # raises for an unknown one
        check_fusion(self.fusion)
        for name in ("d_state", "d_conv", "expand", "headdim"):
            check_size(name, getattr(self, name))

    @property
    def directions(self) -> int:
        """Number of paths of the scan."""
        return scan_paths(self.scan).directions(spatial_dims(self.conv_op))

    @property
    def inner(self) -> int:
        """The width between the projections."""
        return self.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Of the projection that gives the step sizes."""
        return math.ceil(self.d_model / 16)


class SequenceMixer(nn.Module):
    """A layer of a network in which tokens see each other, along paths over their grid or otherwise.

    A subclass's constructor takes :class:`MixerOptions`.
    """

    @classmethod
    def sequence_weights(cls, options: MixerOptions) -> int:
        """Return how many parameters the part has in which tokens see each other, and which a control leaves out.

        Raises:
            ValueError: if the mixer has no controls.
        """
        raise ValueError(f"{cls.__name__} has no controls")

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """``(batch, length, d_model)`` to the same shape; ``grid`` is the shape whose raster the tokens are."""
        raise NotImplementedError


MIXERS: dict[str, type[SequenceMixer]] = {}


def register_mixer(name: str) -> Callable[[type[SequenceMixer]], type[SequenceMixer]]:
    """Decorate a class that networks shall know as ``mixer=name``.

    Raises:
        ValueError: if the name is taken, or if the class is no :class:`SequenceMixer`.
    """

    def decorate(mixer: type[SequenceMixer]) -> type[SequenceMixer]:
        if name in MIXERS:
            raise ValueError(f"two mixers are named {name}; give yours another name")
        if not (isinstance(mixer, type) and issubclass(mixer, SequenceMixer)):
            raise ValueError(f"the mixer {name} is no subclass of SequenceMixer")
        MIXERS[name] = mixer
        return mixer

    return decorate


# What a block knows that has another sequence part than Mamba's, and the controls of that.
OWN_MIXERS = ("mamba", "none", "conv")


def check_mixer(mixer: str, known: Collection[str] = MIXERS, where: str = "") -> str:
    """Return ``mixer`` if it is one of ``known``; ``where``, as in ``" in SS3D"``, says of whom in the message.

    Raises:
        ValueError: otherwise.
    """
    if not isinstance(mixer, str) or mixer not in known:
        raise ValueError(f"mixer must be one of {', '.join(known)}{where}; got {mixer!r}")
    return mixer


def sequence_mixer(
    mixer: str, d_model: int, conv_op: type[nn.Module], scan: str = "tri_oriented", **options: Any
) -> SequenceMixer:
    """The mixer of this name; see :class:`MixerOptions` for the arguments.

    Raises:
        ValueError: for an unknown ``mixer``, ``scan`` or ``fusion``, or a size that is no positive integer.
    """
    return MIXERS[check_mixer(mixer)](MixerOptions(d_model, conv_op, scan, **options))
