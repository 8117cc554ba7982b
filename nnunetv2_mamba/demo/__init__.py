"""``nnunetv2_mamba demo``: a synthetic data set, taken through nnU-Net's own commands from planning to evaluation."""
