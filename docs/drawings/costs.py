"""What the networks cost and how far they got, from the committed results of one small experiment."""

from __future__ import annotations

from .plot import Plot, legend
from .results import results
from .svg import Drawing

_LABEL_BELOW = {"MedSegMambaNoMamba"}  # which would lie on others


def cost_and_dice() -> Drawing:
    """Dice over the time of a step, of trainings of 250 iterations on a fold of the hippocampus."""
    dice = {row["trainer"]: row["mean_dice"] for row in results("hippocampus_fold0_250_iterations")}
    seconds = {row["trainer"]: row["seconds_per_step"] for row in results("step_time_cpu")}
    picture = Drawing("Mean Dice over seconds per training step, a point for each trainer")
    picture.text(10, 20, "Hippocampus, fold 0, after 250 iterations, one seed", style="bold")
    picture.text(10, 36, "Who learns fast, not who is best: tables on this page.")
    picture.text(10, 58, "mean Dice")
    plot = Plot(picture, 46, 66, 318, 250, (0, 4.4), (0.745, 0.805))
    plot.axes((0, 1, 2, 3, 4), (0.75, 0.76, 0.77, 0.78, 0.79, 0.8), "seconds per step of 2 patches, two CPU cores")
    for trainer in sorted(dice.keys() & seconds.keys()):
        x, y = plot.x(seconds[trainer]), plot.y(dice[trainer])
        name = trainer.removeprefix("nnUNetTrainer") or "nnU-Net"
        plain = "Mamba" not in trainer or trainer.endswith("NoMamba")
        picture.dot(x, y, "first" if plain else "second")
        picture.text(x, y + (17 if name in _LABEL_BELOW else -9), name, "middle")
    legend(picture, 306, ((230, "first", "without Mamba"), (140, "second", "with Mamba")))
    return picture


PICTURES = {"cost_and_dice": cost_and_dice}
