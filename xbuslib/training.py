"""The training loop of Section 2.3: seeded, resumable, with everything that never changes computed beforehand."""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xbuslib.config import Config
from xbuslib.errors import StudyError
from xbuslib.files import write_whole
from xbuslib.models.system import Prompts, System
from xbuslib.progress import track


@dataclass(frozen=True)
class TrainingData:
    """A training fold of n cases, resident on the device."""

    images: Tensor  # (n, 1, S, S) uint8
    masks: Tensor  # (n, 1, S, S) bool
    features: Tensor | None  # (n, …) what the frozen encoders make of the images
    prompts: Callable[[list[int], torch.Generator], Prompts]


def soft_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 − mean over images of (2I + 1)/(P + G + 1), in float32; the paper names no loss (docs/protocol.md).

    logits, masks: (B, 1, H, W). The constant 1 keeps an empty pair at loss 0.
    """
    probabilities, targets = torch.sigmoid(logits.float()).flatten(1), masks.float().flatten(1)  # (B, H·W)
    intersection = (probabilities * targets).sum(1)
    return 1 - ((2 * intersection + 1) / (probabilities.sum(1) + targets.sum(1) + 1)).mean()


def learning_rate(step: int, config: Config) -> float:
    """Cosine from the initial to the final rate over the run; `step` counts from 0 (Section 2.3)."""
    share = (1 + math.cos(math.pi * step / config.iterations)) / 2
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * share


def fit(system: System, data: TrainingData, config: Config, seed: int, device: torch.device,
        checkpoint: Path | None = None) -> pd.DataFrame:
    """Train `system` in place for config.iterations and return its history: iteration, loss, learning_rate.

    With `checkpoint` the state is saved now and then and picked up again, so that a killed run goes on to the
    same result. Raises StudyError for a damaged checkpoint or a loss that is not a number.
    """
    system.to(device, memory_format=torch.channels_last).train()
    trainable = [p for p in system.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    state = {"step": 0, "queue": [], "history": []}
    if checkpoint is not None and checkpoint.is_file():
        state = load_checkpoint(checkpoint, system, optimiser, generator)
    remaining = range(state["step"], config.iterations)
    losses = state["history"]
    for step in track(remaining, "training", len(remaining), lambda: f"loss {float(losses[-1]):.3f}"):
        batch = next_batch(state["queue"], len(data.images), config.batch_size, generator)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config)
        losses.append(train_step(system, data, batch, optimiser, config, generator, device))
        state["step"] = step + 1
        if checkpoint is not None and state["step"] % config.checkpoint_every == 0 < config.iterations - state["step"]:
            save_checkpoint(checkpoint, system, optimiser, generator, state)
    history = pd.DataFrame({"iteration": np.arange(1, config.iterations + 1), "loss": torch.stack(losses).cpu().numpy(),
                            "learning_rate": [learning_rate(step, config) for step in range(config.iterations)]})
    if not np.isfinite(history["loss"]).all():
        first = int(history.loc[~np.isfinite(history["loss"]), "iteration"].iloc[0])
        raise StudyError(f"the loss is not a number from iteration {first} on; "
                         "try a smaller learning_rate or amp=false")
    return history


def train_step(system: System, data: TrainingData, batch: list[int], optimiser: torch.optim.Optimizer, config: Config,
               generator: torch.Generator, device: torch.device) -> Tensor:
    """One optimiser step on the cases at positions `batch`; returns the detached loss, left on the device."""
    prompts = data.prompts(batch, generator)
    index = torch.tensor(batch, device=data.images.device)
    image = data.images[index].float().div_(255).contiguous(memory_format=torch.channels_last)  # (B, 1, S, S)
    features = None if data.features is None else data.features[index].float()
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.amp):
        logits = system(image, features, prompts)
    loss = soft_dice_loss(logits, data.masks[index])
    loss.backward()
    optimiser.step()
    return loss.detach()


def next_batch(queue: list[int], n: int, size: int, generator: torch.Generator) -> list[int]:
    """The next `size` positions of an endless stream of shuffles of range(n); `queue` keeps what is left over."""
    while len(queue) < size:
        queue.extend(torch.randperm(n, generator=generator).tolist())
    batch, queue[:] = queue[:size], queue[size:]
    return batch


def save_checkpoint(path: Path, system: System, optimiser, generator: torch.Generator, state: dict) -> None:
    """Everything a killed run needs to go on to the same result."""
    held = {"system": system.trainable_state(), "optimiser": optimiser.state_dict(), "step": state["step"],
            "generator": generator.get_state(), "torch": torch.get_rng_state(), "queue": state["queue"],
            "history": torch.stack(state["history"])}
    if torch.cuda.is_available():
        held["cuda"] = torch.cuda.get_rng_state()
    with write_whole(path) as partial:
        torch.save(held, partial)


def load_checkpoint(path: Path, system: System, optimiser, generator: torch.Generator) -> dict:
    """Put a saved state back; returns step, queue and history."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        system.load_state_dict(held["system"], strict=False)
        optimiser.load_state_dict(held["optimiser"])
        generator.set_state(held["generator"])
        torch.set_rng_state(held["torch"])
        if "cuda" in held and torch.cuda.is_available():
            torch.cuda.set_rng_state(held["cuda"])
        return {"step": held["step"], "queue": held["queue"], "history": list(held["history"])}
    except (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:120]
        raise StudyError(f"checkpoint {path} is damaged or of another system ({reason}); "
                         "delete it and the run starts over") from None
