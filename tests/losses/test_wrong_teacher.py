"""The teacher is wrong: the gate must keep it from doing harm."""

from __future__ import annotations

import torch
from distillation_cases import make_loss
from torch import nn
from torch.nn import functional

SIZE, STEPS = 24, 80


class TinyUNet(nn.Module):
    """Three resolutions, three heads."""

    def __init__(self):
        super().__init__()

        def block(channels, width):
            return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.InstanceNorm2d(width), nn.LeakyReLU())

        self.down = nn.ModuleList([block(1, 8), block(8, 12), block(12, 16)])
        self.up = nn.ModuleList([block(28, 12), block(20, 8)])
        self.heads = nn.ModuleList([nn.Conv2d(8, 3, 1), nn.Conv2d(12, 3, 1), nn.Conv2d(16, 3, 1)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = skips.pop()
        logits = [self.heads[2](x)]
        for block, head in zip(self.up, (self.heads[1], self.heads[0]), strict=True):
            x = block(torch.cat([functional.interpolate(x, scale_factor=2), skips.pop()], 1))
            logits.insert(0, head(x))
        return logits


def cases(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with a bright blob (class 1) and a dim one (class 2) in noise, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(SIZE)
    labels = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.long)
    for case in range(count):
        for label in (1, 2):
            y, x = torch.randint(4, SIZE - 4, (2,), generator=generator)
            labels[case, 0][(axis[:, None] - y) ** 2 + (axis - x) ** 2 < 18] = label
    brightness = torch.tensor([0.0, 1.0, 0.5])[labels]
    return brightness + 0.2 * torch.randn(brightness.shape, generator=generator), labels


def students_dice(gate: str | None, seed: int) -> float:
    """Mean Dice, on new cases, of a taught head whose teacher always exchanges the classes.

    Args:
        gate: None without distillation.
    """
    torch.manual_seed(seed)
    images, labels = cases(30, seed)
    weight = 0.0 if gate is None else 2.0
    options = {"teacher": "ema", "gate": gate or "none", "brake": False, "distillation_weight": weight}
    network, loss = TinyUNet(), make_loss(weights=(4 / 7, 2 / 7, 1 / 7), **options)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(STEPS):
        batch = torch.randint(0, len(labels), (6,))
        target = [labels[batch][..., ::stride, ::stride] for stride in (1, 2, 4)]
        wrong = torch.tensor([0, 2, 1])[labels[batch][:, 0]]
        teacher = 8.0 * functional.one_hot(wrong, 3).movedim(-1, 1)
        optimizer.zero_grad()
        loss(network(images[batch]), target, teacher).backward()
        optimizer.step()
    images, labels = cases(30, seed + 1000)
    with torch.no_grad():
        predicted, labels = network(images)[1].argmax(1, keepdim=True), labels[..., ::2, ::2]
    overlaps = [((predicted == c) & (labels == c), (predicted == c).sum() + (labels == c).sum()) for c in (1, 2)]
    return sum(2 * (both.sum() / size).item() for both, size in overlaps) / 2


def test_with_the_default_gate_a_wrong_teacher_does_no_harm():
    """Without a gate it does: the student learns the exchanged classes."""
    alone, gated, ungated = (students_dice(gate, seed=0) for gate in (None, "advantage", "none"))
    assert alone > 0.7 and ungated < 0.3
    assert gated > alone - 0.1
