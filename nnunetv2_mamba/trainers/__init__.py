"""Trainers for ``nnUNetv2_train -tr``, named as nnU-Net names its own.

Every trainer below also exists in nnU-Net's training lengths: ``nnUNetTrainerSegMamba_1epoch``, ``_5epochs``,
``_10epochs``, ``_20epochs``, ``_50epochs``, ``_100epochs`` and ``_250epochs``.
"""

from .lengths import length_variants
from .medsegmamba import (
    nnUNetTrainerMedSegMamba,
    nnUNetTrainerMedSegMambaConv,
    nnUNetTrainerMedSegMambaNoMamba,
    nnUNetTrainerSegMambaBot,
    nnUNetTrainerSegMambaBotConv,
    nnUNetTrainerSegMambaBotNoMamba,
    nnUNetTrainerTABSurfer,
    nnUNetTrainerTABSurferConv,
    nnUNetTrainerTABSurferNoMamba,
)
from .msd_kmamba import (
    nnUNetTrainerMSDKMamba,
    nnUNetTrainerMSDKMambaConv,
    nnUNetTrainerMSDKMambaEMATeacher,
    nnUNetTrainerMSDKMambaFusedTeacher,
    nnUNetTrainerMSDKMambaNoDistillation,
    nnUNetTrainerMSDKMambaNoKAN,
    nnUNetTrainerMSDKMambaNoMamba,
)
from .papers import (
    nnUNetTrainerMedSegMambaHippocampusPaper,
    nnUNetTrainerMedSegMambaPaper,
    nnUNetTrainerSegMambaPaper,
)
from .segmamba import nnUNetTrainerSegMamba, nnUNetTrainerSegMambaConv, nnUNetTrainerSegMambaNoMamba
from .umamba import (
    nnUNetTrainerUMambaBot,
    nnUNetTrainerUMambaBotConv,
    nnUNetTrainerUMambaBotNoMamba,
    nnUNetTrainerUMambaEnc,
    nnUNetTrainerUMambaEncConv,
    nnUNetTrainerUMambaEncNoMamba,
)

_TRAINERS = (
    nnUNetTrainerSegMamba,
    nnUNetTrainerSegMambaNoMamba,
    nnUNetTrainerSegMambaConv,
    nnUNetTrainerSegMambaPaper,
    nnUNetTrainerMedSegMamba,
    nnUNetTrainerMedSegMambaNoMamba,
    nnUNetTrainerMedSegMambaConv,
    nnUNetTrainerMedSegMambaPaper,
    nnUNetTrainerMedSegMambaHippocampusPaper,
    nnUNetTrainerSegMambaBot,
    nnUNetTrainerSegMambaBotNoMamba,
    nnUNetTrainerSegMambaBotConv,
    nnUNetTrainerTABSurfer,
    nnUNetTrainerTABSurferNoMamba,
    nnUNetTrainerTABSurferConv,
    nnUNetTrainerUMambaBot,
    nnUNetTrainerUMambaBotNoMamba,
    nnUNetTrainerUMambaBotConv,
    nnUNetTrainerUMambaEnc,
    nnUNetTrainerUMambaEncNoMamba,
    nnUNetTrainerUMambaEncConv,
    nnUNetTrainerMSDKMamba,
    nnUNetTrainerMSDKMambaNoMamba,
    nnUNetTrainerMSDKMambaConv,
    nnUNetTrainerMSDKMambaNoKAN,
    nnUNetTrainerMSDKMambaNoDistillation,
    nnUNetTrainerMSDKMambaFusedTeacher,
    nnUNetTrainerMSDKMambaEMATeacher,
)
_VARIANTS = {variant.__name__: variant for trainer in _TRAINERS for variant in length_variants(trainer, __name__)}
globals().update(_VARIANTS)

__all__ = [*(trainer.__name__ for trainer in _TRAINERS), *_VARIANTS]
