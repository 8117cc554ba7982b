"""Sweeps of nnU-Net's own trainings over data sets, plans, trainers, folds and seeds, with their cost measured."""
