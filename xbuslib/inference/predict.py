"""Probability maps: frozen features once per image, then one pass per policy; the first pass of Section 2.7."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from xbuslib.data.images import Prepared
from xbuslib.models import memory, precision
from xbuslib.models.features import frozen_features
from xbuslib.models.system import Prompts, System
from xbuslib.progress import track
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import TextTable, to_tensors
from xbuslib.training.recipes import Plan


class View(NamedTuple):
    """n images as a system sees them: at its native size, as they are or mirrored, with their frozen features."""

    images: Tensor  # (n, 1, s, s) uint8
    features: Tensor | None  # (n, …); None if the system has no frozen image encoder
    mirrored: bool


def views(system: System, images: Tensor, plan: Plan, device: torch.device) -> list[View]:
    """What `plan` has the system look at: (n, 1, S, S) uint8 images, and their mirror images under flip averaging."""
    images = at_native_size(images, plan)
    pictures = [(images, False)] + ([(images.flip(-1), True)] if plan.flip_average else [])
    return [View(some, encode(system, some, plan, device), mirrored) for some, mirrored in pictures]


def at_native_size(images: Tensor, plan: Plan) -> Tensor:
    """(n, 1, S, S) uint8 images at the side that `plan` wants, bilinear with antialiasing; masks by nearest."""
    if plan.native_size is None:
        return images
    size = plan.native_size, plan.native_size
    if images.dtype == torch.bool:
        return F.interpolate(images.float(), size=size, mode="nearest-exact") > 0
    return F.interpolate(images.float(), size=size, mode="bilinear", antialias=True).round().to(torch.uint8)


def encode(system: System, images: Tensor, plan: Plan, device: torch.device) -> Tensor | None:
    """(n, …) frozen features of (n, 1, S, S) uint8 images, in batches; None if the system has none."""
    parts = []
    starts = range(0, len(images), plan.config.prediction_batch)
    for start in track(starts, "encoding images", len(starts)):
        batch = images[start:start + plan.config.prediction_batch].to(device).float().div_(255)
        features = frozen_features(system, batch, plan.amp)
        if features is None:
            return None
        parts.append(features)
    return torch.cat(parts)


@torch.no_grad()
def probability_maps(system: System, images: Tensor, features: Tensor | None, given: Prompts, plan: Plan,
            device: torch.device) -> np.ndarray:
    """(n, S, S) float32 lesion probabilities of (n, 1, s, s) uint8 images under the prompts `given`.

    S is the configured image_size, on which all systems are scored; s differs from it under a native size.
    """
    memory.keep_freed()
    system.eval()
    maps, step, side = [], plan.config.prediction_batch, plan.config.image_size
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        image = images[part].to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
        some = Prompts(*(None if value is None else value[part] for value in given))
        with precision.autocast(plan.amp, device):
            logits = system(image, None if features is None else features[part].float(), some)
        probabilities = torch.sigmoid(logits.float())
        if plan.native_size is not None:
            probabilities = F.interpolate(probabilities, size=(side, side), mode="bilinear")
        maps.append(probabilities[:, 0].cpu())
    return torch.cat(maps).numpy()


def predict_policy(system: System, cases: pd.DataFrame, prepared: Prepared, policy: str, attributes: str,
                   edges: tuple[float, float], seen: list[View], texts: TextTable, plan: Plan,
                   device: torch.device) -> tuple[np.ndarray, pd.DataFrame]:
    """(n, S, S) probabilities of `cases`, as `seen`, under one policy, and the prompts that led to them.

    Reference masks are read only where `policy` is `paper` or `reference`.
    """
    rows = prepared.rows(cases["case_id"])
    frames = [tuple(int(side) for side in prepared.original_sizes[row]) for row in rows]
    style = getattr(system, "prompt_style", "paper")

    def run(findings: list[words.Finding]) -> tuple[np.ndarray, pd.DataFrame]:
        maps, tables = [], []
        for view in seen:
            said = [words.mirror(finding) for finding in findings] if view.mirrored else findings
            tables.append(words.build(cases, said, edges, attributes=attributes == "metadata", style=style))
            given = to_tensors(system, tables[-1], texts)
            found = probability_maps(system, view.images, view.features, given, plan, device)
            maps.append(found[..., ::-1] if view.mirrored else found)
        return (maps[0] if len(maps) == 1 else np.mean(maps, axis=0)), tables[0]

    blank = [words.Finding(None, None, frame) for frame in frames]
    reference = [words.from_reference(prepared, row) for row in rows] if policy in ("paper", "reference") else blank
    proposals = blank
    if policy in ("first_pass", "paper"):
        maps, _ = run(blank)  # the first pass: no spatial text
        proposals = [words.from_first_pass(*pair, plan.config.first_pass_threshold)
                     for pair in zip(maps, frames, strict=True)]
    return run([words.combine(policy, *triple)
                for triple in zip(reference, proposals, frames, strict=True)])
