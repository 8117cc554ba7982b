"""One training of a sweep: what it is, where its files lie, how far it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunetv2_mamba.files import read_json_object, read_optional_json, write_json
from nnunetv2_mamba.nnunet.names import FINAL_CHECKPOINT, save_every
from nnunetv2_mamba.results.folds import COST, SUMMARY
from nnunetv2_mamba.results.model_names import ModelName
from nnunetv2_mamba.text import short_reason

MEASUREMENTS = "cost_partial.json"  # what was measured so far


@dataclass(frozen=True)
class Budget:
    """Says how long to train, the same for every trainer; None leaves the trainer's own.

    Attributes:
        epochs, iterations, validation_iterations: epochs, and iterations of each.
        batch_size: instead of the plan's.
        mirroring: whether the validation at the end predicts with nnU-Net's mirroring.
        schedule: whether the learning rate is set anew with every ``"epoch"`` or every ``"iteration"``.
    """

    epochs: int | None = None
    iterations: int | None = None
    validation_iterations: int | None = None
    batch_size: int | None = None
    mirroring: bool = True
    schedule: Literal["epoch", "iteration"] | None = None

    def settings(self) -> dict[str, int]:
        """Return the same as settings of a recipe; a recipe has neither batch size nor schedule."""
        given = {
            "num_epochs": self.epochs,
            "num_iterations_per_epoch": self.iterations,
            "num_val_iterations_per_epoch": self.validation_iterations,
        }
        if self.epochs is not None:
            given["save_every"] = save_every(self.epochs)
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Training:
    """One fold of one trainer with one seed, as it is written to ``jobs/NAME.json`` of the sweep's folder."""

    dataset: str
    configuration: str
    plans: str
    trainer: str
    fold: int | str
    seed: int
    budget: Budget = field(default_factory=Budget)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its files in the sweep's folder are called."""
        return f"{self.dataset}__{self.model}__fold_{self.fold}__seed_{self.seed}"

    @property
    def model(self) -> str:
        """The name that nnU-Net gives the folder of the model."""
        return ModelName(self.trainer, self.plans, self.configuration).folder

    def file(self, sweep: Path) -> Path:
        """Return the file of ``write``."""
        return sweep / "jobs" / f"{self.name}.json"

    def lock(self, sweep: Path) -> Path:
        """Return the file that the process at the training has locked, see ``lock``."""
        return self.file(sweep).with_suffix(".lock")

    def log(self, sweep: Path) -> Path:
        """Return the file to which its processes print, one after the other."""
        return sweep / "logs" / f"{self.name}.txt"

    def results(self, sweep: Path) -> Path:
        """Return nnUNet_results of this training. nnU-Net's names say nothing of a seed, so every seed has its own."""
        return sweep / "results" / f"seed_{self.seed}"

    def folder(self, sweep: Path) -> Path:
        """Return nnU-Net's folder of the fold."""
        return self.results(sweep) / self.dataset / self.model / f"fold_{self.fold}"

    def finished(self, sweep: Path) -> bool:
        """Tell whether training, validation and measurement are complete; ``cost.json`` is written last."""
        folder = self.folder(sweep)
        return all((folder / file).is_file() for file in (FINAL_CHECKPOINT, SUMMARY, COST))

    def epochs_done(self, sweep: Path) -> int:
        """Count the epochs that were measured; a repeated one counts once."""
        return len(read_optional_json(self.folder(sweep) / MEASUREMENTS).get("epochs", {}))

    def check(self, sweep: Path) -> None:
        """Check that nothing else lies where this training does.

        Raises:
            ValueError: if the folder holds results of this name with another budget or other settings.
        """
        file = self.file(sweep)
        if self.folder(sweep).is_dir() and file.is_file() and Training.read(file) != self:
            raise ValueError(
                f"{self.folder(sweep)} holds results of another budget or other settings ({file} says which); name "
                "another folder with -o, or delete both"
            )

    def write(self, sweep: Path) -> Path:
        """Write the file that ``benchmark.job`` reads."""
        file = self.file(sweep)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(self))
        return file

    @classmethod
    def read(cls, file: Path) -> Training:
        """Read what ``write`` has written.

        Raises:
            OSError: where it is missing or cannot be read.
            ValueError: for what is no such file.
        """
        try:
            content = read_json_object(file)
            return cls(**{**content, "budget": Budget(**content["budget"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is not what nnunetv2_mamba benchmark writes ({short_reason(error)}); delete it, and give the "
                "same command again"
            ) from error
