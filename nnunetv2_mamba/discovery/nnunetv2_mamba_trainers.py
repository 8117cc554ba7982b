"""What nnU-Net scans (``nnUNet_extTrainer``): every public trainer class, under the name given to ``-tr``.

nnU-Net imports this file as a top-level module and drops it from ``sys.modules`` after the search. The classes
themselves live in ``nnunetv2_mamba.trainers``, so they stay the same objects and can be pickled.
"""

from nnunetv2_mamba.trainers import __dir__, __getattr__  # noqa: F401
