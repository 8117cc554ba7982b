"""One case through one model or several, and within the time that it may take.

Several are run one after another. What each says is added to a mean before the next one begins, so that the logits of
one model and the mean are all that is kept. Where time runs out in a later model, the mean is that of those before it;
in the first one, its cheapest run is the answer, for which time was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .class_maps import ClassMaps, Crop, ImageLogits
from .inference_settings import PROBABILITIES
from .member import Image, Member, Prepared
from .model_mean import ModelMean
from .time_budget import MARGIN, Effort, Guard, ladder


class Prediction(NamedTuple):
    """What the models say of a case.

    Attributes:
        properties: of the case, as nnU-Net's preprocessing for the first model leaves them.
        effort: what was run for it.
        complete: whether the time was enough for all tiles.
        without_numbers: voxels of the models' grids for which a model gave NaN.
        too_long: what was begun, and not finished in time.
    """

    maps: ClassMaps
    properties: dict[str, Any]
    effort: Effort
    complete: bool = True
    without_numbers: int = 0
    too_long: Effort | None = None

    def how(self, asked: Effort) -> str:
        """Write what was run, and what of ``asked`` was not."""
        interrupted = f" ({self.too_long} took too long)" if self.too_long else ""
        lost = self.effort.given_up(asked)
        return f"{self.effort}{interrupted}" + (f"; given up for the time: {lost}" if lost else "")


@dataclass
class Ensemble:
    """Models of the same images and labels; one alone is not averaged.

    Attributes:
        members: those first that are to be run where the time is not enough for all.
        average: what the mean is of, as of ``ModelMean``.
        clock: seconds.
        scratch: as of ``StoredLogits``.
    """

    members: Sequence[Member]
    average: str
    clock: Callable[[], float]
    scratch: Path | None
    _pass_seconds: float | None = None

    @property
    def has_regions(self) -> bool:
        return self.members[0].tiles.label_manager.has_regions

    def warm_up(self) -> None:
        """Run a pass of each model, for what is compiled or chosen on first use; times them for the budget.

        Of several a second pass is timed: the first ones would say which model has more to compile.
        """
        seconds = [self._warm_up(member) for member in self.members]
        self._pass_seconds = seconds[0]
        for member, own in zip(self.members, seconds, strict=True):
            member.tiles.cost_of_a_pass = own / seconds[0] if seconds[0] else 1.0

    def _warm_up(self, member: Member) -> float:
        seconds = member.tiles.time_a_pass()
        if len(self.members) > 1:
            seconds = member.tiles.time_a_pass()
            member.leave_the_device()
        return seconds

    @contextmanager
    def predict(
        self,
        image: Image,
        asked: Effort,
        end: float | None = None,
        reading: float = 0.0,
        probabilities: bool = False,
    ) -> Iterator[Prediction]:
        """Give what the models say of a case, for as long as the context lasts.

        Args:
            asked: what is run, as far as the time allows.
            end: on the clock, when all must be done; None for no such time.
            reading: seconds that reading the image took; writing is taken to be as long.
            probabilities: whether they will be asked for, too.
        """
        with ExitStack() as stack:
            case = _Case(self, image, stack)
            del image  # the case forgets what is not needed any more
            if end is None:
                prediction = case.run(asked)
            else:
                prediction = case.run_until(end - reading * MARGIN, asked, probabilities)
            del case
            yield prediction

    def seconds_of_a_pass(self, deadline: float) -> float:
        """Of the first model: measured, where there is time left for a pass; else what the last one took."""
        if self._pass_seconds is None:
            self.warm_up()
        if deadline - self.clock() > self._pass_seconds:
            self._pass_seconds = self.members[0].tiles.time_a_pass()
        return self._pass_seconds


class _Case:
    """A case on its way through the models.

    Args:
        stack: closes what the result is read from.
    """

    def __init__(self, ensemble: Ensemble, image: Image, stack: ExitStack):
        self._ensemble, self._stack = ensemble, stack
        begin = ensemble.clock()
        alone = len(ensemble.members) == 1
        self._first: Prepared | None = ensemble.members[0].prepare(image, last=alone)
        self._properties = self._first.properties
        self._preparing = ensemble.clock() - begin
        self._image: Image | None = None if alone else image

    def run(self, effort: Effort, guard: Guard | None = None, costs: _Costs | None = None) -> Prediction:
        """Run so many models, fewer where the guard says so; not complete where it does in the first one."""
        self._without_numbers = 0
        maps = self._logits(0, self._first, effort, guard)
        if effort.models == 1 or (guard and guard.closed):
            return self._prediction(maps, effort, not (guard and guard.closed))
        self._first = None
        mean = self._stack.enter_context(ModelMean(self._ensemble.average, self._ensemble.scratch))
        done = 1  # models that were run to their end; what the last says is not in the mean yet
        while done < effort.models and (not guard or guard.fits(costs.of_one_more(done, effort))):
            if guard:
                guard.open(reserved=costs.averaging)
            mean.add(maps)
            maps.close()
            maps = self._logits(done, self._ensemble.members[done].prepare(self._image), effort, guard)
            if guard and guard.closed:
                return self._prediction(mean.maps(), replace(effort, models=done))
            done += 1
        if done == 1:
            return self._prediction(maps, replace(effort, models=1))
        mean.add(maps)
        maps.close()
        return self._prediction(mean.maps(), replace(effort, models=done))

    def run_until(self, end: float, asked: Effort, probabilities: bool) -> Prediction:
        """Run what there is time for."""
        clock = self._ensemble.clock
        making = self._seconds_of_making_heads()
        softmax = probabilities and not self._ensemble.has_regions  # all heads are made once before
        deadline = end - (self._preparing + making * (2 if softmax else 1)) * MARGIN
        guard = Guard(deadline, clock)
        seconds = self._ensemble.seconds_of_a_pass(deadline)
        guard.record(seconds, passes=1)
        costs = _Costs(self._ensemble, self._shapes(), self._preparing / seconds, making / seconds)
        efforts = ladder(asked)
        cheapest = efforts[-1]
        chosen = guard.choose(efforts, costs.of)
        if chosen.models == 1:
            self._image = None
        guard.open(reserved=costs.of(cheapest) if chosen != cheapest else 0)
        prediction = self.run(chosen, guard, costs)
        if chosen != cheapest and not prediction.complete:
            prediction.maps.close()
            guard.open(reserved=0)
            prediction = self.run(cheapest, guard, costs)
        return prediction if prediction.effort == chosen else prediction._replace(too_long=chosen)

    def _prediction(self, maps: ClassMaps, effort: Effort, complete: bool = True) -> Prediction:
        return Prediction(maps, self._properties, effort, complete, self._without_numbers)

    def _logits(self, number: int, prepared: Prepared, effort: Effort, guard: Guard | None) -> ImageLogits:
        member = self._ensemble.members[number]
        logits = self._stack.enter_context(member.room_for_logits(prepared, self._ensemble.scratch))
        try:
            self._without_numbers += member.tiles.predict(prepared.case, effort, logits, guard)
        finally:  # of the next case, too, where this one failed
            if len(self._ensemble.members) > 1:
                member.leave_the_device()
        return member.maps(logits, prepared)

    def _shapes(self) -> list[tuple[int, ...]]:
        """Of the case on the grids of the models."""
        first, *others = self._ensemble.members
        crop = Crop.of_case(self._properties, first.model.plans)
        spacing = self._properties["spacing"]
        return [self._first.shape, *(member.shape(crop.size, spacing) for member in others)]

    def _seconds_of_making_heads(self) -> float:
        """How long the first model's logits take to be resampled to the image's grid: measured on one, for all."""
        begin = self._ensemble.clock()
        self._first.resample(np.zeros((1, *self._first.shape), dtype=np.float16))
        return (self._ensemble.clock() - begin) * self._ensemble.members[0].n_heads


class _Costs:
    """What takes time in a case, counted in passes.

    Args:
        shapes: of the case on the grids of the models.
        preparing: an image for a model.
        making: all heads on the image's grid.
    """

    def __init__(self, ensemble: Ensemble, shapes: Sequence[Sequence[int]], preparing: float, making: float):
        self._members, self._shapes, self._preparing = ensemble.members, shapes, preparing
        # They are made to be added, which is taken to be as long, and the softmax needs them all once before.
        softmax = ensemble.average == PROBABILITIES and not ensemble.has_regions
        self.averaging = making * (3 if softmax else 2)

    def of(self, effort: Effort) -> float:
        """An effort; what all need, the first model's preparation and its heads for the labels, is left out."""
        tiles = [self._tiles(number, effort) for number in range(effort.models)]
        more = effort.models - 1
        return sum(tiles) + more * self._preparing + (effort.models * self.averaging if more else 0)

    def of_one_more(self, number: int, effort: Effort) -> float:
        """A model after others, of which the last is to be added to the mean, as it is itself."""
        return self._preparing + self._tiles(number, effort) + 2 * self.averaging

    def _tiles(self, number: int, effort: Effort) -> float:
        return self._members[number].tiles.cost(self._shapes[number], effort)
