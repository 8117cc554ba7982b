"""Our networks keep out of oneDNN's faults: tried in a process of its own, because a fault there ends the process.

oneDNN 3.12.0 and 3.13.3 (torch 2.14.1, 2.15.0): the backward pass by weights of a 2D 1x1 convolution of stride 2, with
channels last and fewer than 8 of them (16 with AVX-512), writes past the end of its memory (oneDNN #6035). The process
ends with "double free or corruption", or hangs, sooner or later.
"""

import os
import subprocess
import sys
from pathlib import Path

import nnunetv2_mamba

NARROW = """
import torch
from torch import nn
from nnunetv2_mamba.architectures import SegMamba, UMambaBot, UMambaEnc

plan = dict(input_channels=2, n_stages=3, conv_op=nn.Conv2d, kernel_sizes=3, strides=[1, 2, 2], num_classes=2)
options = {  # the others' widths are multiples of 8
    UMambaEnc: dict(patch_size=(48, 48)),
    UMambaBot: {},
    SegMamba: {},
}
formats = []
for network_class, more in options.items():
    for width in (2, 4, 6):
        network = network_class(**plan, features_per_stage=[width, width, 8], **more)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and max(module.kernel_size) == 1:
                module.register_forward_pre_hook(lambda module, inputs: formats.append(inputs[0].is_contiguous()))
        for _ in range(3):
            network(torch.randn(2, 2, 48, 48)).square().mean().backward()
print("trained", len(formats), all(formats))
"""


def test_narrow_networks_in_2d_train_without_avx512(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1]),
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
    command = [sys.executable, "-c", NARROW]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    _, strided, contiguous = result.stdout.split()
    assert int(strided) > 0 and contiguous == "True"
