"""A system of two numbers, its data and its training: for the tests of what `loop.fit` does."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from xbuslib.config import resolve
from xbuslib.models.system import Prompts, System
from xbuslib.training import loop, recipes

CPU = torch.device("cpu")
BLU = 201  # training images of BLU's first two folds


class Pixelwise(System):
    """One weight and one bias, shared by all pixels; the bias belongs to U-KAN's group."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.mix.weight.fill_(0.7)
            self.mix.bias.fill_(-0.2)

    def parameter_groups(self):
        return {"kan": [self.mix.bias], "other": [self.mix.weight]}

    def forward(self, image, image_features, prompts):
        return self.mix(image)


class Normalised(Pixelwise):
    """With batch normalisation, whose statistics move at every step."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, image, image_features, prompts):
        return self.norm(self.mix(image))


class Convolved(System):
    """Two 3×3 convolutions: weights of four dimensions, which training may keep in another order of memory."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, image, image_features, prompts):
        return self.second(torch.tanh(self.first(image)))


class Halved(Pixelwise):
    """Its own logits are half as wide and high as the image."""

    def training_logits(self, image, image_features, prompts):
        return self(image, image_features, prompts)[..., ::2, ::2] + 1


def plan_of(system, recipe, n=BLU, **settings):
    """The plan of a recipe without its augmentation and mixed precision, which are no matter here."""
    made = recipes.plan(system, resolve("paper", {"recipe": recipe, **settings}), n)
    return replace(made, augmentation=None, amp=False)


def data_of(n, batches=None, side=4):
    """n images with their masks; the positions of each batch are added to `batches`."""
    rng = np.random.default_rng(5)
    images = torch.from_numpy(rng.integers(0, 256, (n, 1, side, side), dtype=np.uint8))
    masks = torch.from_numpy(rng.random((n, 1, side, side)) < 0.4)

    def prompts(positions, generator, masks=None):
        if batches is not None:
            batches.append(list(positions))
        return Prompts()

    return loop.TrainingData(images, masks, None, prompts)


def train(system, plan, n=BLU, seed=0):
    """History, positions of each batch, rates at each step by group, and the system's state after each step."""
    seen, batches, states = [], [], []

    def before(optimiser, *_):
        seen.append({group["name"]: float(group["lr"]) for group in optimiser.param_groups})

    def after(*_):
        states.append({key: value.detach().clone() for key, value in system.state_dict().items()})

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        history = loop.fit(system, data_of(n, batches), plan, seed, CPU)
    finally:
        for handle in handles:
            handle.remove()
    return history, batches, seen, states
