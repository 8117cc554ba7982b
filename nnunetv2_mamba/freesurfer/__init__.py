"""MedSegMamba's protocol: FreeSurfer subjects to nnU-Net data sets, and prediction in two stages."""
