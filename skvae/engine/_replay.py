"""Steps recorded once and replayed: on a GPU the launches of a small step take all of its time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch

from skvae._core._batch import StepInputs
from skvae.engine._step import TrainingStep

# Fewer steps than this are over before they are recorded.
FEWEST_STEPS = 500

Action = Callable[[], None]


class ReplayedSteps:
    """Takes steps as `TrainingStep.run` does, by replaying a recording of them.

    A recording reads and writes the memory that it was made with, so the inputs of the steps have
    to be the same tensors each time, with other values; those of a chunk are. There is one
    recording for each number of steps: that of a full chunk, and that of the last one.

    Parameters
    ----------
    step : TrainingStep
    record : callable
        Makes of an action, which it may carry out any number of times, one that repeats it.
    """

    def __init__(
        self, step: TrainingStep, record: Callable[[Action], Action] | None = None
    ) -> None:
        self._step = step
        self._record = record_cuda_graph if record is None else record
        self._replays: dict[int, Action] = {}
        self._gave_up = False

    def run(self, steps: Sequence[StepInputs]) -> None:
        """Take some steps, the first ones of a chunk."""
        if self._gave_up:
            self._step.run(steps)
            return
        replay = self._replays.get(len(steps)) or self._recorded(steps)
        replay()

    def _recorded(self, steps: Sequence[StepInputs]) -> Action:
        """Recording of some steps, the state being what it was before."""
        before = [t.clone() for t in self._step.state()]

        def take() -> None:
            self._step.run(steps)

        try:
            replay = self._record(take)
        except RuntimeError as error:
            warnings.warn(
                f"Training steps could not be recorded as a CUDA graph, and are launched one "
                f"operation at a time: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            self._gave_up, replay = True, take
        with torch.no_grad():
            for target, value in zip(self._step.state(), before, strict=True):
                target.copy_(value)
        self._replays[len(steps)] = replay
        return replay


def runner_for(step: TrainingStep, n_steps: int) -> Callable[[Sequence[StepInputs]], None]:
    """What takes the steps of a run of at most `n_steps` steps."""
    is_replayable = step.clock.step.device.type == "cuda" and step.bound.is_replayable
    if is_replayable and n_steps >= FEWEST_STEPS:
        return ReplayedSteps(step).run
    return step.run


def record_cuda_graph(action: Action) -> Action:
    """CUDA graph of an action; nothing in it may wait for the host or draw random numbers."""
    # Beforehand memory is allocated and kernels are chosen, on a stream of their own.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        action()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay
