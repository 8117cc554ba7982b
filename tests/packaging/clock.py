"""A clock for tests of time budgets."""


class Clock:
    """Moves when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> object:
        self.now += seconds
        return "done"
