"""A training step and a prediction of each network in fp16: seconds, memory, and the planner's estimate of it."""

from __future__ import annotations

import json
from collections.abc import Callable

from networks import ONE_OF_EACH, OURS, Network

from . import places
from .context import Context, Row
from .measuring import MIB, free_memory, milliseconds, peak_mib
from .steps import prediction, training_step

WARM_UP = 3  # steps: the optimiser's state, cuDNN's choices, the scale of the loss
SECONDS = 1.5  # to time a step for


def run(context: Context, job: str) -> None:
    """Emit a row for the training of the network that the job names, and one for its prediction."""
    network = sized(context, job)
    step = training_step(context, network)
    for _ in range(WARM_UP):
        step()
    predict = prediction(context, network)
    predict()
    del predict  # its weights do not count in a training
    free_memory(context)
    with context.measuring():
        context.emit(measured(context, job, network, "training", step))
        del step
        free_memory(context)
        predict = prediction(context, network)
        predict()
        context.emit(measured(context, job, network, "prediction", predict))


def sized(context: Context, name: str) -> Network:
    """The network of this name, small in a dry run."""
    network = {**OURS, **ONE_OF_EACH}[name]
    return network.made_small() if context.is_dry else network


def measured(context: Context, name: str, network: Network, what: str, function: Callable[[], object]) -> Row:
    """Return the row: milliseconds of a call, its peak memory, and the estimate."""
    peak = peak_mib(context, function)
    estimate = None if context.needs_cuda("the estimates of memory, which are for a GPU") else estimate_mib(name, what)
    return {
        "network": name,
        "what": what,
        "patch": network.edge,
        "batch": 1 if what == "prediction" else 2,
        "ms": milliseconds(context, function, SECONDS),
        "peak MiB": peak,
        "estimate MiB": estimate,
        "peak / estimate": peak / estimate if peak and estimate else None,
    }


def estimate_mib(name: str, what: str) -> float | None:
    """What the planner expects, from the archive; None for what was not estimated, or in a checkout."""
    if not places.ESTIMATES.exists():
        return None
    estimates = json.loads(places.ESTIMATES.read_text(encoding="utf-8"))
    bytes_ = estimates.get(name, {}).get(what.partition(",")[0])
    return None if bytes_ is None else bytes_ / MIB
