"""Names of nnU-Net's files and configurations."""

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")  # in the order of --c
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")  # that are planned; 3d_cascade_fullres inherits
