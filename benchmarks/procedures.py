"""One training step and one validation pass, done our way and done the released code's way.

The reference procedure is the same model on the same cases: each batch decodes and resizes its PNG files, encodes its
texts and its images with the frozen encoders anew, runs in float32 with channels first and torch's own transposed
convolution, leaves memory to the C library, and steps an optimiser that is not fused. Neither way is timed with
anything the other does not need.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xbuslib.config import Config
from xbuslib.data import images
from xbuslib.inference.predict import encode, probability_maps
from xbuslib.models import registry
from xbuslib.models.layers_cpu import Conv3x3, Dropout, GroupNorm, PatchConvTranspose2d
from xbuslib.models.system import System
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import TextTable, TrainingPrompts, to_tensors
from xbuslib.runs.source import Source
from xbuslib.training import loop, recipes


@dataclass(frozen=True)
class Bench:
    """One system with everything that both procedures need."""

    system: System
    plan: recipes.Plan
    cases: pd.DataFrame
    prepared: images.Prepared
    rows: np.ndarray
    edges: tuple[float, float]
    device: torch.device


def bench(name: str, config: Config, source: Source, device: torch.device) -> Bench:
    torch.manual_seed(0)
    system = registry.build(name, config).to(device).train()
    plan = recipes.plan(name, config, len(source.cases))
    rows = source.prepared.rows(source.cases["case_id"])
    edges = words.size_edges(source.prepared.long_sides[rows])
    return Bench(system, plan, source.cases, source.prepared, rows, edges, device)


def our_step(b: Bench):
    """A function that makes one training step of xbuslib.training."""
    texts = TextTable(b.system, b.device)
    pictures = torch.from_numpy(b.prepared.images[b.rows])[:, None].to(b.device)  # (n, 1, S, S)
    masks = torch.from_numpy(b.prepared.masks[b.rows])[:, None].to(b.device)
    training_prompts = TrainingPrompts(b.system, b.cases, b.prepared, b.rows, b.edges, b.plan, texts)
    data = loop.TrainingData(pictures, masks, encode(b.system, pictures, b.plan, b.device), training_prompts)
    b.system.to(memory_format=torch.channels_last).train()
    optimiser, generator, queue = loop.make_optimiser(b.system, b.plan), torch.Generator().manual_seed(0), []

    def step() -> Tensor:
        batch = loop.next_batch(queue, len(b.cases), b.plan.batch_size, generator)
        return loop.train_step(b.system, data, batch, optimiser, b.plan, generator, b.device)

    return step


def reference_step(b: Bench):
    """The same step as the released code goes about it."""
    as_torch_has_it(b.system)
    optimiser = torch.optim.AdamW([p for p in b.system.parameters() if p.requires_grad], lr=b.plan.rates["other"],
                                  weight_decay=b.plan.weight_decay, fused=False)
    generator, queue = torch.Generator().manual_seed(0), []

    def step() -> Tensor:
        batch = loop.next_batch(queue, len(b.cases), b.plan.batch_size, generator)
        image, mask = _decode(b, batch)
        cases = b.cases.iloc[batch].reset_index(drop=True)
        training_prompts = TrainingPrompts(b.system, cases, b.prepared, b.rows[batch], b.edges, b.plan,
                                           TextTable(b.system, b.device))
        given = training_prompts(list(range(len(batch))), generator)
        with torch.no_grad():
            features = b.system.encode_images(image)
        optimiser.zero_grad()
        loss = b.plan.loss(b.system(image, features, given), mask)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def our_pass(b: Bench):
    """A function that predicts a batch without spatial text from kept features, as a first pass does."""
    pictures = torch.from_numpy(b.prepared.images[b.rows[:b.plan.batch_size]])[:, None]
    features = encode(b.system, pictures, b.plan, b.device)
    given = to_tensors(b.system, _blank(b), TextTable(b.system, b.device))
    return lambda: probability_maps(b.system, pictures, features, given, b.plan, b.device)


def reference_pass(b: Bench):
    """The same batch decoded, encoded and predicted in float32."""
    as_torch_has_it(b.system)
    batch = list(range(b.plan.batch_size))

    @torch.no_grad()
    def predict() -> Tensor:
        b.system.eval()
        image, _ = _decode(b, batch)
        given = to_tensors(b.system, _blank(b), TextTable(b.system, b.device))
        return torch.sigmoid(b.system(image, b.system.encode_images(image), given)).cpu()

    return predict


def as_torch_has_it(system: System) -> None:
    """Torch's own kernels for layers that are done in another way."""
    for module in system.modules():
        if isinstance(module, (Conv3x3, Dropout, GroupNorm, PatchConvTranspose2d)):
            module.forward = partial(type(module).__base__.forward, module)


def _decode(b: Bench, batch: list[int]) -> tuple[Tensor, Tensor]:
    """(B, 1, S, S) image in [0, 1] and bool mask from their files."""
    files = b.cases.iloc[batch]
    decoded = [images.decode(case.image, [case.mask], b.plan.config.image_size) for case in files.itertuples()]
    image = torch.from_numpy(np.stack([one["images"] for one in decoded]))[:, None].to(b.device).float().div_(255)
    return image, torch.from_numpy(np.stack([one["masks"] for one in decoded]))[:, None].to(b.device)


def _blank(b: Bench) -> pd.DataFrame:
    cases = b.cases.iloc[:b.plan.batch_size]
    sizes = b.prepared.original_sizes[b.rows[:len(cases)]]
    return words.build(cases, [words.Finding(None, None, tuple(map(int, size))) for size in sizes], b.edges)
