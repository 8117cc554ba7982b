"""The whole training step of every network under a compiler: mixed precision, scaled loss, what is computed again."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from compiled_ddp import assert_two_processes_do_what_one_does
from compiled_steps import Graphs, difference, network_and_batch, training_step
from registered_networks import ONE_OF_EACH_CLASS

from nnunetv2_mamba.architectures.blocks.state_space import operators_of
from nnunetv2_mamba.trainers.activation_checkpointing import checkpoint_activations

# Networks, and SegMamba with the other scan.
CASES = [*((name, {}) for name in ONE_OF_EACH_CLASS), ("SegMamba", {"mixer": "mamba2"})]
every_case = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            *case, marks=[] if case == ("SegMamba", {}) else pytest.mark.slow, id=" ".join([case[0], *case[1].values()])
        )
        for case in CASES
    ],
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.set_num_threads(1)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_step_compiles(backend: str, name: str, autocast: torch.dtype | None, checkpointed: bool = False, **options):
    """Compiled into one graph, the step is as near to one in fp32 as it is uncompiled."""
    network, image, labels = network_and_batch(name, **options)
    exact = training_step(network, network, image, labels, None)
    if checkpointed:
        checkpoint_activations(network)
    eager = training_step(network, network, image, labels, autocast)
    graphs = Graphs()
    compiled = torch.compile(network, backend=getattr(graphs, backend), fullgraph=True)
    actual = training_step(network, compiled, image, labels, autocast)
    assert difference(actual, exact) <= 1.5 * difference(eager, exact) + 1e-4
    torch.testing.assert_close(actual["loss"], eager["loss"], rtol=1e-3, atol=0)
    assert {*graphs.forward} - {"scan_order_table"} == operators_of(network)
    if not checkpointed:  # of whole stages, where everything is computed again
        graphs.assert_no_scan_twice()


@every_case
def test_in_fp16_with_a_scaled_loss(name, options):
    """As far as inductor decides what to compute again; a compiler of C++ takes minutes."""
    assert_step_compiles("partitioned", name, torch.float16, **options)


@pytest.mark.slow
@every_case
def test_in_fp16_with_a_scaled_loss_by_inductor(name, options):
    assert_step_compiles("inductor", name, torch.float16, **options)


@pytest.mark.slow
@every_case
def test_with_activation_checkpointing(name, options):
    assert_step_compiles("partitioned", name, torch.float16, checkpointed=True, **options)


@pytest.mark.slow
def test_with_activation_checkpointing_by_inductor():
    assert_step_compiles("inductor", "SegMamba", torch.float16, checkpointed=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH_CLASS)
def test_two_processes(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert_two_processes_do_what_one_does(tmp_path, name, "cpu", "partitioned")


@pytest.mark.slow
def test_two_processes_by_inductor(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert_two_processes_do_what_one_does(tmp_path, "SegMamba", "cpu", "inductor")
