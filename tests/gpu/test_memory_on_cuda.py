"""The traced memory of a training step against what CUDA allocates."""

from functools import partial

import pytest
import torch
from planned_networks import NETWORKS

pytest.importorskip("nnunetv2", reason="the estimate is that of a step with nnU-Net's loss")

from nnunetv2_mamba.memory.estimate import training_loss, training_memory  # noqa: E402

SHAPE = (2, 2, 96, 96, 96)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_step(name):
    options = {"patch_size": SHAPE[2:]} if name in ("UMambaEnc", "UNETR") else {}
    build = partial(NETWORKS[name], **options)
    network = build().cuda()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True, fused=True)
    for _ in range(3):  # the first makes the optimiser's state and lets cuDNN choose
        torch.cuda.reset_peak_memory_stats()
        optimizer.zero_grad(set_to_none=True)
        image = torch.zeros(SHAPE, device="cuda")
        with torch.autocast("cuda", torch.float16):
            loss = training_loss(network, image, None)
        loss.backward()
        optimizer.step()
        del loss, image
    assert training_memory(build, SHAPE).total == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)
