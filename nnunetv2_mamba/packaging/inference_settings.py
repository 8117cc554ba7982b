"""What a container is told when it is built: platform, model, channels and inference choices, as a JSON file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from ..evaluation.component_rules import ComponentFilter
from ..files import read_json
from .outputs import Output

PRECISIONS = ("default", "fp32", "fp16", "bf16")
PROBABILITIES, LOGITS = "probabilities", "logits"
AVERAGES = (PROBABILITIES, LOGITS)


@dataclass(frozen=True)
class MemberChoices:
    """One of the models whose predictions are averaged.

    Attributes:
        name: of its folder below the model's; empty for that one itself.
        folds: as of ``Choices``.
        temperature: that its logits are divided by.
    """

    name: str
    folds: tuple[str, ...]
    temperature: float = 1.0

    def __post_init__(self):
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")


@dataclass(frozen=True)
class Choices:
    """How the model is run.

    Attributes:
        folds: those of one model whose logits are averaged, as ``("0", "1")``.
        checkpoint: name of the file in each fold's folder.
        mirroring: whether tiles are mirrored, too, over the axes that the model was trained with.
        step_size: stride of the sliding window as a share of the patch, above 0 and at most 1.
        precision: what the network computes in: ``default`` is nnU-Net's (fp16 on CUDA, else fp32).
        time_budget: seconds per case, or None; see ``time_budget.py``.
        component_filter: which components of the segmentation are kept.
        members: the models, where there are several or they have temperatures; ``folds`` is not read then.
        average: of what the mean over several models is, ``probabilities`` or ``logits``.
    """

    folds: tuple[str, ...] = ("0",)
    checkpoint: str = "checkpoint_final.pth"
    mirroring: bool = True
    step_size: float = 0.5
    precision: str = "default"
    time_budget: float | None = None
    component_filter: ComponentFilter = field(default_factory=ComponentFilter)
    members: tuple[MemberChoices, ...] = ()
    average: str = PROBABILITIES

    def __post_init__(self):
        if not isinstance(self.mirroring, bool):  # "false", in quotes, would be true
            raise ValueError(f"mirroring must be true or false, got {self.mirroring!r}")
        if not 0 < self.step_size <= 1:
            raise ValueError(f"step_size must be above 0 and at most 1, got {self.step_size}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.time_budget is not None and not self.time_budget > 0:  # NaN is neither
            raise ValueError(f"time_budget must be above 0 seconds, got {self.time_budget}")
        if self.average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got {self.average!r}")

    @property
    def models(self) -> tuple[MemberChoices, ...]:
        """The members, or the one model."""
        return self.members or (MemberChoices("", self.folds),)


@dataclass(frozen=True)
class InferenceSettings:
    """A container's ``inference.json``.

    Attributes:
        platform: the name of one of ``platforms.PLATFORMS``.
        channels: where the model's input channels come from, in their order, as the platform calls them; empty where
            it numbers them.
        output: folder of the segmentation below the output, as ``images/organs``, where the platform has several.
        more_outputs: what else is written, with paths below the output.
        model: folder of the model in the container, or of the folders of several.
        n_channels: how many channels the model takes.
        gpu: whether the image has CUDA, so that running on the CPU would be a surprise.
    """

    platform: str
    channels: tuple[str, ...] = ()
    output: str = ""
    more_outputs: tuple[Output, ...] = ()
    model: str = "/opt/ml/model"
    n_channels: int = 1
    gpu: bool = False
    choices: Choices = field(default_factory=Choices)

    def __post_init__(self):
        if not isinstance(self.platform, str):
            raise ValueError(f"platform must be a name, got {self.platform!r}")
        if self.n_channels < 1:
            raise ValueError(f"n_channels must be at least 1, got {self.n_channels}")

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2, default=str) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> InferenceSettings:
        """Read the file.

        Raises:
            ValueError: for a file that is not what ``write`` writes.
        """
        try:
            document = read_json(path)
            choices = document.pop("choices")
            choices["folds"] = tuple(choices["folds"])
            choices["component_filter"] = ComponentFilter.of_json(choices["component_filter"])
            choices["members"] = tuple(
                MemberChoices(**{**member, "folds": tuple(member["folds"])}) for member in choices["members"]
            )
            document["channels"] = tuple(document["channels"])
            document["more_outputs"] = tuple(
                Output(**{**output, "path": PurePosixPath(output["path"])}) for output in document["more_outputs"]
            )
            return cls(**document, choices=Choices(**choices))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a container's settings: {error!r}") from error
