"""The three training recipes, resolved to one plan per run: every number with its reason.

`uniform` is the paper's protocol (Section 2.3), one for every system; `official` is what each system's own repository
does (`official` of its class); `strong` is one for every system again: good practice today.
A value set in the configuration wins over the recipe's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

from torch import Tensor

from xbuslib.config import Config
from xbuslib.errors import StudyError
from xbuslib.models import registry
from xbuslib.training import augmentation, losses
from xbuslib.training.augmentation import Augmentation


@dataclass(frozen=True)
class Plan:
    """How one system is trained on one fold, and how it predicts."""

    config: Config  # what has nothing to do with the recipe: thresholds, memory, checkpoints
    recipe: str
    iterations: int
    batch_size: int
    shuffle: bool
    last_batch: str  # of an epoch: "continued" into the next one, "kept" incomplete, or "dropped" if incomplete
    rates: dict[str, float]  # initial learning rate of each parameter group; "other": all that is in no named one
    schedule: Callable[..., float]  # rate at (step, initial rate), step counting from 0
    optimiser: str  # "adamw" or "adam"
    weight_decay: float
    amp: bool
    loss: Callable[[Tensor, Tensor], Tensor]
    own_resolution: bool  # the loss is computed where the system's logits arise, not at the image's size
    native_size: int | None  # side of the images it is trained and run on; None: image_size
    augmentation: Augmentation | None
    drop_spatial: float  # share of training prompts without size, and without location
    drop_attributes: float  # the same for shape, margin and BI-RADS
    mix_visual: bool  # the training condition is mixed with a picture of a lesion of the same words
    ema_decay: float | None  # of the moving average of the weights, which is then what is scored
    flip_average: bool  # at validation, over the image and its mirror image
    zoom_average: float | None  # at validation, also over the image enlarged so many times about its middle

    def rate(self, step: int, group: str = "other") -> float:
        """Learning rate of a parameter group at `step`, counting from 0."""
        return self.schedule(step, self.rates[group])

    def record(self) -> dict:
        """The plan as plain values for run.json; functions by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "config"}
        return {key: _name(value) if callable(value) else value for key, value in values.items()}


def cosine(step: int, initial: float, floor: float, length: int, every: int = 1) -> float:
    """Cosine from `initial` to `floor` over `length` units of `every` steps, then constant."""
    share = (1 + math.cos(math.pi * min(step // every, length) / length)) / 2
    return floor + (initial - floor) * share


def staircase(step: int, initial: float, every: int, factor: float) -> float:
    """`initial`, times `factor` after each `every` steps."""
    return initial * factor ** (step // every)


def warm_polynomial(step: int, initial: float, warm_up: int, length: int, power: float) -> float:
    """Linear to `initial` over `warm_up` steps, then times (1 − t/length)^power, t counting from there."""
    if step < warm_up:
        return initial * (step + 1) / warm_up
    return initial * max(0.0, 1 - (step - warm_up) / length) ** power


UNIFORM = {
    "iterations": 1000, "batch_size": 4, "rates": {"other": 1e-4}, "amp": True,  # Sec. 2.3
    "optimiser": "adamw",  # Sec. 2.3
    "weight_decay": 0.01,  # not in the paper; AdamW's default, as in the released code
    "shuffle": True, "last_batch": "continued",  # batch normalisation of one or two images is noise
    "loss": losses.soft_dice_loss,  # not in the paper; the released code's, its constant put right
    "own_resolution": False, "native_size": None,  # Sec. 2.2: 352 pixels for all
    "augmentation": None,  # none in the paper, none in the released code
    "drop_spatial": 0.3, "drop_attributes": 0.3,  # a first pass and a scoring without an expert's reading, which
    # know neither, are then in distribution; at 0.3 half of the prompts still have both size and location
    "mix_visual": False, "ema_decay": None, "flip_average": False, "zoom_average": None,  # not in the paper
    "schedule": ("cosine", {"floor": 1e-6}),  # Sec. 2.3; the floor is the released code's
}
STRONG = UNIFORM | {  # iterations, batch, optimiser, rates and schedule as uniform: what differs is named here
    "loss": losses.cross_entropy_dice_loss,
    "augmentation": augmentation.strong,
    "ema_decay": 0.99,  # an average over about the last 100 of 1000 iterations
    "flip_average": True,
    "zoom_average": 1.25,  # the largest scale of its augmentation; chosen on BUS-BRA (docs/recipes.md)
}

# What the official recipes (`System.official`) share where they do not say otherwise: all prompts whole, every image
# once per epoch, and PyTorch's default of keeping the last, incomplete batch.
OFFICIAL = UNIFORM | {"drop_spatial": 0.0, "drop_attributes": 0.0, "own_resolution": True, "last_batch": "kept"}


def plan(system: str, config: Config, n_train: int) -> Plan:
    """The plan of `config.recipe` for the system of this registry name on a fold of `n_train` training images.

    Raises StudyError if the system has no official recipe, or if its batches are larger than the fold.
    """
    values = dict({"uniform": UNIFORM, "strong": STRONG}.get(config.recipe) or _official(system))
    given = {key: getattr(config, key) for key in ("batch_size", "weight_decay", "drop_spatial", "drop_attributes",
                                                   "amp", "iterations") if getattr(config, key) is not None}
    values |= given
    if config.learning_rate is not None:  # the KAN layers' own rate stays
        values["rates"] = values["rates"] | {"other": config.learning_rate}
    if values["native_size"] is not None and values["native_size"] >= config.image_size:
        values["native_size"] = None  # the images are smaller: enlarging them adds nothing

    epoch = _epoch(n_train, values["batch_size"], values["last_batch"])
    epochs = values.pop("epochs", None)
    if epochs and config.iterations is None:
        values["iterations"] = epochs * epoch
    schedule = _schedule(system, *values.pop("schedule"), values["iterations"], epoch, config.final_learning_rate)
    return Plan(config=config, recipe=config.recipe, schedule=schedule, **values)


def dropped(config: Config) -> tuple[float, float]:
    """Shares of training prompts without size (and, drawn apart, without location), and without attributes.

    They are the recipe's, unless `config` sets them; of all official recipes the same.
    """
    shares = {"uniform": UNIFORM, "strong": STRONG}.get(config.recipe, OFFICIAL)
    spatial, attributes = (shares[key] if getattr(config, key) is None else getattr(config, key)
                           for key in ("drop_spatial", "drop_attributes"))
    return spatial, attributes


def require_training(plan: Plan, start_from: object) -> None:
    """Raise StudyError if nothing is to be trained and there is no run to start from."""
    if not plan.iterations and not start_from:
        raise StudyError("iterations=0 scores what other images have taught a system: give --start-from a run that was "
                         "trained on them")


def of_run(run: dict) -> Plan:
    """The plan of a run folder's run.json; in earlier versions `strong` averaged over fewer views."""
    found = plan(run["system"], Config(**run["config"]), run["train_cases"])
    return replace(found, zoom_average=run["plan"]["zoom_average"])


def _official(system: str) -> dict:
    """A system's official recipe whole, losses and augmentations as functions."""
    own = registry.system_class(system).official
    if own is None:
        having = [name for name in registry.names() if registry.system_class(name).official]
        raise StudyError(f"{system} has no official recipe: no repository of its authors describes one. Those with one "
                         f"are {', '.join(having)}; for the others take recipe=uniform or recipe=strong")
    changed = OFFICIAL | own
    return changed | {"loss": getattr(losses, own["loss"]),
                      "augmentation": getattr(augmentation, own["augmentation"]) if own.get("augmentation") else None}


def _epoch(n: int, size: int, last_batch: str) -> int:
    """Iterations per epoch, at least one."""
    if last_batch == "dropped" and n < size:
        raise StudyError(f"this recipe drops incomplete batches, and {n} training images do not fill one of {size}; "
                         "set batch_size lower")
    return n // size if last_batch == "dropped" else math.ceil(n / size)


def _schedule(system: str, name: str, numbers: dict, iterations: int, epoch: int,
              final_rate: float | None) -> Callable[[int, float], float]:
    """The schedule `name` (a function above) with its `numbers`; `every_epochs` of them becomes steps.

    A run that is made shorter by hand is cut off, not squeezed, except where a schedule has no length of its own.
    """
    numbers = dict(numbers)
    if "every_epochs" in numbers:
        numbers["every"] = numbers.pop("every_epochs") * epoch
    if name != "staircase":
        numbers.setdefault("length", iterations)
    if final_rate is not None:
        if "floor" not in numbers:
            raise StudyError(f"the official schedule of {system} has no final_learning_rate to set")
        numbers["floor"] = final_rate
    return partial({"cosine": cosine, "staircase": staircase, "warm_polynomial": warm_polynomial}[name], **numbers)


def _name(function: Callable) -> str:
    """"cosine(floor=1e-06, length=1000)" of a partial, else the function's own name."""
    if isinstance(function, partial):
        return f"{function.func.__name__}({', '.join(f'{key}={value}' for key, value in function.keywords.items())})"
    return function.__name__
