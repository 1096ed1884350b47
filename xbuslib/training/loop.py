"""The training loop: seeded, resumable, with everything that never changes computed beforehand."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xbuslib.errors import StudyError
from xbuslib.files import write_whole
from xbuslib.models import memory, precision
from xbuslib.models.features import frozen_features
from xbuslib.models.system import Prompts, System
from xbuslib.progress import track
from xbuslib.training.augmentation import augment
from xbuslib.training.finite import Watch
from xbuslib.training.recipes import Plan

OPTIMISERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


@dataclass(frozen=True)
class TrainingData:
    """A training fold of n cases, resident on the device."""

    images: Tensor  # (n, 1, S, S) uint8
    masks: Tensor  # (n, 1, S, S) bool
    features: Tensor | None  # (n, …) what the frozen encoders make of the images; not read under augmentation
    prompts: Callable[..., Prompts]  # of positions, generator and, under augmentation, masks (B, 1, S, S)
    frames: Tensor | None = None  # (n, 2) original width and height; read under augmentation only
    case_ids: tuple[str, ...] = ()  # n of them, for messages
    texts: dict[str, Tensor] = field(default_factory=dict)  # text: (d,), the embeddings that `prompts` has computed


class WeightAverage:
    """Exponential moving average of trained weights and of normalisation statistics.

    At step t the average keeps the share min(decay, (1 + t)/(10 + t)): the first steps soon leave the random start.
    """

    def __init__(self, system: System, decay: float):
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in system.trainable_state().items()}

    @torch.no_grad()
    def update(self, system: System, step: int) -> None:
        kept = min(self.decay, (1 + step) / (10 + step))
        for key, value in system.trainable_state().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - kept)
            else:
                self.state[key].copy_(value)  # counters

    def load(self, state: dict[str, Tensor]) -> None:
        for key, value in self.state.items():
            value.copy_(state[key])


def fit(system: System, data: TrainingData, plan: Plan, seed: int, device: torch.device,
        checkpoint: Path | None = None) -> pd.DataFrame:
    """Train `system` in place as `plan` says and return its history: iteration, loss, learning_rate.

    `attrs["seconds"]` of the history is the time of training, that of killed processes up to their checkpoint included.
    With `checkpoint` the state is saved now and then and picked up again, so that a killed run goes on to the
    same result. Raises StudyError for a damaged checkpoint, or at the step whose loss or gradients are not finite.
    """
    memory.keep_freed()
    system.to(device, memory_format=torch.channels_last).train()
    optimiser = make_optimiser(system, plan)
    average = None if plan.ema_decay is None else WeightAverage(system, plan.ema_decay)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    state = {"step": 0, "queue": [], "history": [], "seconds": 0.0}
    if checkpoint is not None and checkpoint.is_file():
        state = load_checkpoint(checkpoint, system, optimiser, generator, average)
        data.texts.update(state["texts"])
    began = time.monotonic() - state["seconds"]
    remaining = range(state["step"], plan.iterations)
    losses, every = state["history"], plan.config.checkpoint_every
    watch = Watch(data.case_ids, device)
    for step in track(remaining, "training", len(remaining), lambda: f"loss {float(losses[-1]):.3f}"):
        batch = next_batch(state["queue"], len(data.images), plan.batch_size, generator, plan.shuffle, plan.last_batch)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step, group["name"])
        losses.append(train_step(system, data, batch, optimiser, plan, generator, device))
        watch.add(step + 1, batch, losses[-1], optimiser)
        if average is not None:
            average.update(system, step)
        state["step"] = step + 1
        if checkpoint is not None and state["step"] % every == 0 < plan.iterations - state["step"]:
            watch.check()
            state |= {"seconds": time.monotonic() - began, "texts": data.texts}
            save_checkpoint(checkpoint, system, optimiser, generator, state, average)
    watch.check()
    history = history_table(plan, losses)
    history.attrs["seconds"] = time.monotonic() - began
    if average is not None:
        system.load_state_dict(average.state, strict=False)
    return history


def make_optimiser(system: System, plan: Plan) -> torch.optim.Optimizer:
    """The plan's optimiser, a parameter group with its name for each of its rates."""
    groups = system.parameter_groups() if len(plan.rates) > 1 else {"other": system.parameters()}
    stored = {name: [(p, as_stored(p)) for p in groups[name] if p.requires_grad] for name in plan.rates}
    optimiser = OPTIMISERS[plan.optimiser](
        [{"params": [same for _, same in stored[name]], "lr": rate, "name": name} for name, rate in plan.rates.items()],
        weight_decay=plan.weight_decay, fused=True)
    moved = [(p, same) for pairs in stored.values() for p, same in pairs if same is not p]

    def hand_over(*_) -> None:
        for parameter, same in moved:
            same.grad = None if parameter.grad is None else as_stored(parameter.grad)
            parameter.grad = None

    optimiser.register_step_pre_hook(hand_over)
    return optimiser


def as_stored(tensor: Tensor) -> Tensor:
    """The tensor, or the memory of a channels_last one (O, C, h, w) in its own order, (O, h, w, C).

    torch's fused optimisers copy on CPUs what is not contiguous: a fourteenth of a step of XBusNet at 160 pixels. They
    work element by element, so the order changes no number.
    """
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.detach().permute(0, 2, 3, 1)


def train_step(system: System, data: TrainingData, batch: list[int], optimiser: torch.optim.Optimizer, plan: Plan,
               generator: torch.Generator, device: torch.device) -> Tensor:
    """One optimiser step on the cases at positions `batch`; returns the detached loss, left on the device."""
    index = torch.tensor(batch, device=data.images.device)
    image, mask = data.images[index].float().div_(255), data.masks[index]  # (B, 1, S, S)
    if plan.augmentation is None:
        prompts = data.prompts(batch, generator)
        features = None if data.features is None else data.features[index]
    else:  # prompts and frozen features follow the augmented image
        image, mask = augment(plan.augmentation, image, mask, data.frames[index])
        prompts = data.prompts(batch, generator, mask)
        features = frozen_features(system, image, plan.amp)
    image = image.contiguous(memory_format=torch.channels_last)
    features = None if features is None else features.float()
    optimiser.zero_grad(set_to_none=True)
    with precision.autocast(plan.amp, device):
        logits = (system.training_logits if plan.own_resolution else system)(image, features, prompts)
    loss = plan.loss(logits, mask)
    loss.backward()
    optimiser.step()
    return loss.detach()


def next_batch(queue: list[int], n: int, size: int, generator: torch.Generator, shuffle: bool = True,
               last_batch: str = "continued") -> list[int]:
    """The next `size` positions of an endless stream of passes over range(n); `queue` keeps what is left over.

    `last_batch` of a pass: "continued" with the next pass, "kept" though incomplete, or "dropped" if incomplete.
    """
    while len(queue) < (size if last_batch == "continued" else 1):
        order = torch.randperm(n, generator=generator).tolist() if shuffle else list(range(n))
        queue.extend(order[:n - n % size] if last_batch == "dropped" else order)
    batch, queue[:] = queue[:size], queue[size:]
    return batch


def history_table(plan: Plan, losses: list[Tensor]) -> pd.DataFrame:
    """iteration, loss and learning_rate; learning_rate_<group> for further parameter groups."""
    steps = range(plan.iterations)
    rates = {"learning_rate" if name == "other" else f"learning_rate_{name}": [plan.rate(step, name) for step in steps]
             for name in sorted(plan.rates, key=lambda name: name != "other")}
    return pd.DataFrame({"iteration": np.arange(1, plan.iterations + 1),
                         "loss": torch.stack(losses).cpu().numpy() if losses else np.empty(0, np.float32)} | rates)


def save_checkpoint(path: Path, system: System, optimiser, generator: torch.Generator, state: dict,
                    average: WeightAverage | None = None) -> None:
    """Everything a killed run needs to go on to the same result."""
    saved = {"system": system.trainable_state(), "optimiser": optimiser.state_dict(), "step": state["step"],
            "generator": generator.get_state(), "torch": torch.get_rng_state(), "queue": state["queue"],
            "history": torch.stack(state["history"]), "seconds": state["seconds"],
            "texts": state["texts"]}  # an embedding depends, in its last digit, on the texts beside which it was made
    if average is not None:
        saved["average"] = average.state
    if torch.cuda.is_available():
        saved["cuda"] = torch.cuda.get_rng_state()
    with write_whole(path) as partial:
        torch.save(saved, partial)


def load_checkpoint(path: Path, system: System, optimiser, generator: torch.Generator,
                    average: WeightAverage | None = None) -> dict:
    """Put a saved state back; returns step, queue, seconds, texts and history, the losses where training adds more."""
    device = next(system.parameters()).device
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        system.load_state_dict(saved["system"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        if average is not None:
            average.load(saved["average"])
        generator.set_state(saved["generator"])
        torch.set_rng_state(saved["torch"])
        if "cuda" in saved and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["cuda"])
        return {"step": saved["step"], "queue": saved["queue"], "history": list(saved["history"].to(device)),
                "seconds": saved.get("seconds", 0.0),  # a checkpoint of an earlier version has neither
                "texts": {text: embedding.to(device) for text, embedding in saved.get("texts", {}).items()}}
    except Exception as error:  # damage makes torch.load raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise StudyError(f"checkpoint {path} is damaged or of another system ({reason}); "
                         "delete it and the run starts over") from None
