"""One training step of a small network as nnU-Net does it, eager and compiled, and what is in the compiled graphs.

For the tests on a CPU and on a GPU; knows torch and the networks, not nnU-Net.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.regularization import DropPath
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from registered_networks import fitting, own_stages, small_arguments
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.compile_fx import compile_fx, compile_fx_inner

from nnunetv2_mamba.architectures import registry

PATCH = (16, 16, 16)  # or the next that a network takes
TOPOLOGY = {
    "input_channels": 2,
    "n_stages": 2,
    "features_per_stage": [8, 16],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [[3, 3, 3]] * 2,
    "strides": [[1, 1, 1], [2, 2, 2]],
    "num_classes": 3,
    "deep_supervision": True,
}
SCANS = ("directional_scan", "directional_ssd")
# Inductor on a CPU: g++ need not optimise what runs once.
CPP = {"aot_inductor.debug_compile": True}
if torch.__version__ < (2, 9):
    # A buffer within fused loops was as small as the last axis where several were one loop
    # (https://github.com/pytorch/pytorch/pull/160857): a sum of two instance norms of volumes wrote past its end.
    CPP["max_fusion_size"] = 1


def network_and_batch(name: str, samples: int = 2, **options: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in training but for what draws random numbers, images and labels; always the same."""
    torch.manual_seed(0)
    patch = fitting(name, own_stages(name, TOPOLOGY)["strides"], PATCH)
    network = registry.NETWORKS[name].network_class(**small_arguments(name, TOPOLOGY, patch, **options))
    for module in network.modules():
        if isinstance(module, nn.Dropout | DropPath):
            module.eval()
    image = torch.randn(samples, TOPOLOGY["input_channels"], *patch)
    labels = (image[:, 0] > 0.8).long() + (image[:, 1] > 0.3).long()
    return network, image, labels


def training_step(
    network: nn.Module, forward: Callable[[Tensor], Any], image: Tensor, labels: Tensor, autocast: torch.dtype | None
) -> dict[str, Tensor]:
    """The loss and the gradients of a step through ``forward``, which runs ``network``; with fp16 the loss is scaled.

    The optimiser's step is taken, and undone.
    """
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler(image.device.type, init_scale=2.0**10, enabled=autocast is torch.float16)
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(image.device.type, autocast, enabled=autocast is not None):
        outputs = forward(image)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        loss = sum(_loss(output, labels) for output in outputs)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    gradients = {
        name.replace("_checkpoint_wrapped_module.", ""): weight.grad.clone()
        for name, weight in network.named_parameters()
    }
    scaler.step(optimizer)
    scaler.update()
    assert all(value.isfinite().all() for value in network.state_dict().values())
    network.load_state_dict(before)
    return {"loss": loss.detach(), **gradients}


def _loss(output: Tensor, labels: Tensor) -> Tensor:
    scale = labels.shape[-1] // output.shape[-1]
    return nn.functional.cross_entropy(output.float(), labels[:, ::scale, ::scale, ::scale])


def difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all gradients as one vector, relative; a bias before a norm has a gradient of 0 but for rounding."""
    assert actual.keys() == expected.keys()
    names = [name for name in expected if name != "loss"]
    one, other = (torch.cat([each[name].flatten().double() for name in names]) for each in (actual, expected))
    return ((one - other).norm() / other.norm()).item() if one.isfinite().all() else float("inf")


class Graphs:
    """How often every operator of this package stands in the graphs that a compiler was given.

    Attributes:
        forward, backward: calls by the operator's name.
    """

    def __init__(self) -> None:
        self.forward, self.backward = Counter(), Counter()

    def inductor(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        """torch's default compiler, as a backend, on a CPU with the settings ``CPP``."""

        def compile_noted(graph, inputs, **options):
            self._note(graph, self.backward if options.get("is_backward") else self.forward)
            return compile_fx_inner(graph, inputs, **options)

        on_cpu = all(tensor.device.type == "cpu" for tensor in inputs if isinstance(tensor, Tensor))
        return compile_fx(graph, inputs, inner_compile=compile_noted, config_patches=CPP if on_cpu else None)

    def partitioned(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        """A backend that decides what the backward pass computes again, as inductor does, and compiles nothing."""

        def noted(calls):
            def keep(graph, inputs):
                self._note(graph, calls)
                return make_boxed_func(graph.forward)

            return keep

        backend = aot_autograd(
            fw_compiler=noted(self.forward),
            bw_compiler=noted(self.backward),
            partition_fn=min_cut_rematerialization_partition,
        )
        return backend(graph, inputs)

    def _note(self, graph: torch.fx.GraphModule, calls: Counter) -> None:
        ours = (node.target for node in graph.graph.nodes if getattr(node.target, "namespace", "") == "nnunetv2_mamba")
        calls.update(target.__name__.partition(".")[0] for target in ours)

    def assert_no_scan_twice(self) -> None:
        """Every scan is computed once, in the forward pass, and differentiated once, in the backward pass."""
        for scan in SCANS:
            assert self.backward[scan] == 0, f"{scan} is computed again"
            assert self.backward[f"{scan}_backward"] == self.forward[scan]
