"""Figures of the papers that benchmarks are compared with."""

SEGMAMBA_TRAINING_MIB = 17976  # a training step at 128^3, batch 2 (Xing et al. 2024, arXiv 2401.13560)
MEDSEGMAMBA_INFERENCE_MIB = 1.988 * 1024  # a patch of 96^3 (Cao et al. 2024, arXiv 2409.08307)
MEDSEGMAMBA_SECONDS = {32: 22, 16: 90}  # a whole scan by the step of its windows: "about" and "below", the same paper
