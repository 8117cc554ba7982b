"""Where the time of SegMamba's training step goes, kernel by kernel."""

from __future__ import annotations

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .context import Context
from .measuring import synchronize
from .steps import training_step
from .training import WARM_UP, sized

ROWS = 40  # the kernels that take most; the rest is summed up


def run(context: Context, job: str) -> None:
    """Emit a row for each kernel of a step, on a CPU for each operator."""
    step = training_step(context, sized(context, "SegMamba"))
    for _ in range(WARM_UP):
        step()
    on_cpu = context.needs_cuda("the GPU's kernels, of which there are none")
    activities = [ProfilerActivity.CPU] if on_cpu else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with context.measuring(), profile(activities=activities) as profiled:
        step()
        synchronize(context)
    wanted = DeviceType.CPU if on_cpu else DeviceType.CUDA
    times = {}
    for event in profiled.key_averages():
        if event.device_type == wanted and not event.is_user_annotation:
            microseconds = event.self_cpu_time_total if on_cpu else event.self_device_time_total
            calls, so_far = times.get(event.key, (0, 0.0))
            times[event.key] = calls + event.count, so_far + microseconds
    total = sum(microseconds for _, microseconds in times.values())
    if not total:
        raise RuntimeError("the profiler saw no kernel; is another profiler attached to the GPU?")
    for row in largest(times, total):
        context.emit(row)


def largest(times: dict[str, tuple[int, float]], total: float) -> list[dict]:
    """Rows by falling time, the rest and the sum last. ``times`` are calls and microseconds by kernel."""
    order = sorted(times.items(), key=lambda item: -item[1][1])
    rest = [value for _, value in order[ROWS:]]
    summed = [("the rest", (sum(calls for calls, _ in rest), sum(us for _, us in rest)))] if rest else []
    everything = ("all", (sum(calls for calls, _ in times.values()), total))
    return [
        {"kernel": name[:100], "calls": calls, "ms": microseconds / 1e3, "share": microseconds / total}
        for name, (calls, microseconds) in [*order[:ROWS], *summed, everything]
    ]
