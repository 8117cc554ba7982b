"""Names of nnU-Net's files and configurations, and how often it writes one of them."""

FINAL_CHECKPOINT, LATEST_CHECKPOINT, BEST_CHECKPOINT = (
    f"checkpoint_{name}.pth" for name in ("final", "latest", "best")
)
CHECKPOINTS = (FINAL_CHECKPOINT, LATEST_CHECKPOINT, BEST_CHECKPOINT)  # in the order in which --c looks for them
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")  # that are planned; 3d_cascade_fullres inherits


def save_every(epochs: int, most: int = 50) -> int:
    """Epochs from one latest checkpoint to the next in a training of so many: a tenth, ``most`` being nnU-Net's own."""
    return min(most, max(1, epochs // 10))
