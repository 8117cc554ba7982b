"""Sweeps of nnU-Net's own trainings over data sets, plans, trainers, folds and seeds, with their cost measured.

The words of this room:

- sweep: what a TOML file describes, and the folder of its results.
- training: one fold of one trainer with one data set, configuration, plans and seed. Messages that count trainings call
  them runs.
- budget: how long each training of a sweep is, the same for all trainers.
- machine: where trainings are computed: device, number side by side, variables.
- job: the process, or the cluster's job, in which a training is computed; ``jobs/NAME.json`` tells it which.
- launcher: starts jobs, here or on a cluster; launched is what it returns, outcome how that ended.
- scheduler: keeps jobs going until every training is finished or has failed.
- record: what was measured of a training epoch by epoch (``cost_partial.json``), from which its cost (``cost.json``).
- conclusion: the finished models, evaluated and compared.
"""
