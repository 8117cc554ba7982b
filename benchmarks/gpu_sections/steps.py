"""A training step and a prediction of any network as nnU-Net makes them: fp16, its loss and deep supervision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from networks import Network
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from .context import Context

CLIP = 12  # of the gradient's norm, nnU-Net's
_DICE = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}


def half_precision(context: Context) -> torch.autocast:
    """Autocast to fp16, which a GPU trains and predicts in; a CPU stays in fp32, as nnU-Net does there."""
    return torch.autocast(context.device_type, torch.float16, enabled=not context.needs_cuda("autocast to fp16"))


def training_step(
    context: Context,
    network: Network,
    batch: int = 2,
    compiled: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> Callable[[], float]:
    """Return a function that makes a step on a random patch and returns its loss.

    The weights change, and a step whose gradients are not finite is left out, as in a training.

    Args:
        compiled: what is done to the network before it is called.
    """
    _choose_as_nnunet()
    torch.manual_seed(0)
    device = context.device
    bare = network.build(deep_supervision=True).to(device).train()
    optimizer = _optimizer(network.optimizer, bare)
    scaler = torch.amp.GradScaler(context.device_type)
    image = torch.randn(batch, network.channels, *(network.edge,) * 3, device=device)
    with torch.no_grad(), half_precision(context):
        outputs = bare(image)
    loss_of, targets = _loss(outputs), [_labels(output) for output in outputs]
    del outputs
    model = compiled(bare)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with half_precision(context):
            loss = loss_of(model(image), targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(bare.parameters(), CLIP)
        if torch.isfinite(norm):
            optimizer.step()
        scaler.update()
        return loss.item()

    return step


def prediction(context: Context, network: Network) -> Callable[[], Tensor]:
    """Return a function that predicts one random patch."""
    _choose_as_nnunet()
    torch.manual_seed(0)
    model = network.build(deep_supervision=False).to(context.device).eval()
    image = torch.randn(1, network.channels, *(network.edge,) * 3, device=context.device)

    def predict() -> Tensor:
        with torch.inference_mode(), half_precision(context):
            return model(image)

    return predict


def _choose_as_nnunet() -> None:
    """Let cuDNN try its algorithms in the first steps, as nnU-Net's commands do."""
    torch.backends.cudnn.benchmark = True


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    return torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.99, nesterov=True, fused=True)


def _loss(outputs: list[Tensor]) -> nn.Module:
    """nnU-Net's loss: a head weighs half of the next larger one, the smallest nothing where there are several."""
    weights = [0.5**level for level in range(len(outputs))]
    if len(weights) > 1:
        weights[-1] = 0.0
    weights = [weight / sum(weights) for weight in weights]
    return DeepSupervisionWrapper(DC_and_CE_loss(_DICE, {}, dice_class=MemoryEfficientSoftDiceLoss), weights)


def _labels(output: Tensor) -> Tensor:
    batch, classes, *grid = output.shape
    return torch.randint(classes, (batch, 1, *grid), dtype=torch.int16, device=output.device)
