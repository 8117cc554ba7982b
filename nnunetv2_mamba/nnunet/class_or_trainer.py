"""Methods that nnU-Net calls on a trainer in training, and on its class in prediction."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any


class class_or_trainer_method:  # noqa: N801  (a decorator, as classmethod is)
    """Decorate a method whose first argument is the trainer, with the user's settings, or the class, with its own."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, trainer: Any, owner: type) -> MethodType:
        return MethodType(self._function, owner if trainer is None else trainer)
