"""Which connected components of a segmentation are kept, as a JSON file says it. Of the standard library only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import read_json_object
from ..json_numbers import is_finite_number
from ..text import excerpt

FILE = "component_filter.json"
NEIGHBOURS = 26  # of a voxel of a component, also by a corner, as for nnU-Net


@dataclass(frozen=True)
class ComponentRule:
    """Of one label or region.

    Attributes:
        smallest_mm3: components of less volume are removed.
        largest: at most so many are kept, the largest ones; None for any number.
    """

    smallest_mm3: float = 0.0
    largest: int | None = None

    def __post_init__(self):
        if not is_finite_number(self.smallest_mm3) or self.smallest_mm3 < 0:
            raise ValueError(f"smallest_mm3 must be mm3 from 0 on, got {excerpt(self.smallest_mm3)}")
        if self.largest is not None and (type(self.largest) is not int or self.largest < 1):
            raise ValueError(f"largest must be a number of components from 1 on, or null, got {self.largest!r}")

    def __str__(self) -> str:
        words = [f"at least {self.smallest_mm3:g} mm3"] if self.smallest_mm3 else []
        words += [f"the {self.largest} largest" if self.largest > 1 else "the largest"] if self.largest else []
        return "keep " + (" and ".join(words) or "all")


@dataclass(frozen=True)
class ComponentFilter:
    """A rule for some of the labels or regions, by their names in ``dataset.json``."""

    rules: Mapping[str, ComponentRule] = field(default_factory=dict)

    def check(self, names: Collection[str]) -> None:
        """Raise ValueError where a rule is for none of these labels."""
        if unknown := sorted(self.rules.keys() - set(names)):
            raise ValueError(f"the component filter has a rule for {unknown[0]!r}; the labels are {', '.join(names)}")

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> ComponentFilter:
        """Read what ``dataclasses.asdict`` gives of one; what else the document says is left.

        Raises:
            ValueError: for anything else.
        """
        try:
            return cls({str(name): ComponentRule(**rule) for name, rule in document["rules"].items()})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"it is no filter of nnunetv2_mamba choose-filter: {error!r}") from error

    @classmethod
    def read(cls, file: Path) -> ComponentFilter:
        """Read a file.

        Raises:
            OSError, ValueError: naming it.
        """
        document = read_json_object(file)
        try:
            return cls.of_json(document)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
