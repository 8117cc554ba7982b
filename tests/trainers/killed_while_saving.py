"""Run as a script: save a checkpoint, then die as if by ``kill -9`` half-way through saving the next one.

Arguments: trainer class name, dataset.json, plans file, file to write.
"""

import io
import json
import os
import signal
import sys
from pathlib import Path

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

trainer_name, dataset_json, plans, checkpoint = sys.argv[1:]
save = torch.save


def die_half_way(content, file):
    buffer = io.BytesIO()
    save(content, buffer)
    half = buffer.getvalue()[: buffer.tell() // 2]
    if isinstance(file, str):
        Path(file).write_bytes(half)
    else:
        file.write(half)
        file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


trainer = recursive_find_trainer_class_by_name(trainer_name)(
    plans={**json.loads(Path(plans).read_text()), "continue_training": False},
    configuration="3d_fullres",
    fold=0,
    dataset_json=json.loads(Path(dataset_json).read_text()),
    device=torch.device("cpu"),
)
trainer.initialize()
trainer.current_epoch = 4
trainer.save_checkpoint(checkpoint)
trainer.current_epoch = 5
torch.save = die_half_way
trainer.save_checkpoint(checkpoint)
