"""Names of nnU-Net's files and configurations."""

FINAL_CHECKPOINT, LATEST_CHECKPOINT, BEST_CHECKPOINT = (
    f"checkpoint_{name}.pth" for name in ("final", "latest", "best")
)
CHECKPOINTS = (FINAL_CHECKPOINT, LATEST_CHECKPOINT, BEST_CHECKPOINT)  # in the order in which --c looks for them
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")  # that are planned; 3d_cascade_fullres inherits
