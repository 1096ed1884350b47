"""Stops training at the first step whose loss or gradients are not finite, and names the cases of its batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from xbuslib.errors import StudyError

NAMED = 20  # cases shown in the message; the largest batch of a recipe, CLIP-TNseg's official one, has 16


class Step(NamedTuple):
    """What is needed to judge one step, and to say where it was."""

    number: int  # from 1, as in history.csv
    cases: list[str]
    values: Tensor  # (2,) loss and largest norm of a weight's gradient, on the device


class Watch:
    """Looks at each step's loss and gradients.

    On a CPU they are looked at when the step is done. On a GPU the values of a step are read when the next one has been
    handed to the device, so that the device never waits for it; `check` reads what is left, before anything is saved.
    """

    def __init__(self, case_ids: list[str], device: torch.device):
        self.case_ids, self.behind = case_ids, int(device.type != "cpu")
        self.steps: list[Step] = []

    def add(self, number: int, batch: list[int], loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Take in step `number`, made on the cases at positions `batch`; raises StudyError as `check` does."""
        cases = [str(self.case_ids[i]) if len(self.case_ids) else f"position {i}" for i in batch]
        self.steps.append(Step(number, cases, torch.stack([loss.float(), largest_norm(optimiser, loss)])))
        self.check(self.behind)

    def check(self, keep: int = 0) -> None:
        """Judge all steps but the last `keep`; raises StudyError, with step and cases, for the first not finite."""
        while len(self.steps) > keep:
            step = self.steps.pop(0)
            loss, gradient = step.values.tolist()
            wrong = f"the loss is {loss}" if not _finite(loss) else f"a gradient has the norm {gradient}"
            if not (_finite(loss) and _finite(gradient)):
                raise StudyError(
                    f"training stopped at iteration {step.number}: {wrong}, which is not a finite number. The cases of "
                    f"that batch: {', '.join(step.cases[:NAMED])}{' …' if len(step.cases) > NAMED else ''}. Look at "
                    "their images and masks, or try a smaller learning_rate or amp=false.")


def largest_norm(optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Largest Euclidean norm of a weight's gradient, on its device; nan if any is nan, 0 where there are none.

    A quarter of the time of a fused AdamW step on a CPU; the largest absolute value would cost thirty times as much.
    """
    gradients = [parameter.grad for group in optimiser.param_groups for parameter in group["params"]
                 if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=loss.device)
    return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).max()


def _finite(value: float) -> bool:
    return abs(value) < float("inf")  # also false for nan
