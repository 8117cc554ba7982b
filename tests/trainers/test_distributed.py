"""Two processes with a sample each do what one process does with both."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest
import torch
from tiny_dataset import NAME, TinyDataset

import distributed_step  # isort: skip


@pytest.fixture(scope="module")
def two_processes(tiny_dataset_files: TinyDataset, tmp_path_factory) -> Callable[[str], list[dict]]:
    """What each of two gloo processes saw that trained a group of networks; a group is trained once."""

    @cache
    def trained(group: str) -> list[dict]:
        folder = tmp_path_factory.mktemp("ddp")
        preprocessed = tiny_dataset_files.preprocessed / NAME
        arguments = [folder / "meeting_point", preprocessed / "dataset.json", preprocessed, folder]
        environment = {**os.environ, **tiny_dataset_files.with_results(folder / "results").environment()}
        processes = [
            subprocess.Popen(
                [sys.executable, distributed_step.__file__, str(rank), group, *map(str, arguments)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        for process in processes:
            output, _ = process.communicate(timeout=400)
            assert process.returncode == 0, output
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]

    return trained


@pytest.fixture(scope="module")
def one_process(tiny_dataset_files: TinyDataset, tmp_path_factory) -> Callable[[str], dict]:
    """The trainers of a group in this process, made once."""
    torch.set_num_threads(1)
    files = tiny_dataset_files.with_results(tmp_path_factory.mktemp("one_process") / "results")
    folder = files.preprocessed / NAME
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**files.environment(), "NNUNETV2_MAMBA_SETTINGS": ""}.items():
            patch.setenv(name, value)
        yield cache(lambda group: distributed_step.make_trainers(group, folder / "dataset.json", folder))


@pytest.mark.parametrize("configuration", distributed_step.CONFIGURATIONS)
@pytest.mark.parametrize(
    ("group", "name"),
    [
        pytest.param(group, name, marks=[pytest.mark.slow] * (group != "ours"), id=name)
        for group, names in distributed_step.GROUPS.items()
        for name in names
    ],
)
def test_loss_gradients_and_step_are_those_of_the_joined_batch(group, name, configuration, two_processes, one_process):
    name = f"{name} {configuration}"
    first, second = (results[name] for results in two_processes(group))
    joined = distributed_step.step(one_process(group)[name], slice(0, 2))
    assert (first["loss"] + second["loss"]) / 2 == pytest.approx(joined["loss"], rel=1e-4)
    assert first["loss"] != pytest.approx(second["loss"], rel=1e-4)  # the samples differ
    # With several processes nnU-Net's loss trains the lowest head too, by 1e-6, as DDP wants a gradient for everything.
    lowest_head = first["weights"].keys() - joined["weights"].keys()
    assert all(key.startswith("decoder.seg_layers.") for key in lowest_head) and len(lowest_head) <= 2
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    trained = {key: first["gradients"][key] for key in joined["gradients"]}
    torch.testing.assert_close(trained, joined["gradients"], rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("loader_dies", [False, True])
def test_a_signal_to_one_process_stops_all_before_the_same_step(loader_dies, two_processes):
    """The first process writes the checkpoint, also where the other one's data loading has died of the signal."""
    first, second = (results[f"stopped {loader_dies}"] for results in two_processes("ours"))
    assert first == (128 + signal.SIGUSR2, True) and second[0] == 128 + signal.SIGUSR2


@pytest.mark.parametrize("configuration", distributed_step.CONFIGURATIONS)
def test_nan_in_one_process_lets_none_wait_and_is_found(configuration, two_processes):
    """Where Dice is over the batch, the search for its origin takes part of every process, whatever it has found; where
    it is over each sample, the loss of the process that writes the log is finite."""
    first, second = (results[f"NaN {configuration}"] for results in two_processes("ours"))
    assert first["skipped"] == second["skipped"] == 1
    assert math.isfinite(first["loss"]) and math.isfinite(second["loss"])
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    found = "the input batch (an image holds NaN or Inf; check the raw data and its preprocessing) (on GPU 1)"
    assert found in first["log"] and "nowhere" not in first["log"] and "beyond fp16" not in first["log"]
