"""Probability maps: frozen features once per image, then one pass per policy; the first pass of Section 2.7."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from xbuslib.data.images import Prepared
from xbuslib.models import memory, precision
from xbuslib.models.features import frozen_features
from xbuslib.models.system import Prompts, System
from xbuslib.progress import track
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import TextTable, to_tensors
from xbuslib.prompts.words import Finding
from xbuslib.training.recipes import Plan

CHUNK = 128  # images whose views are held at once: of XBusNet at 352 pixels under four views 1.1 GB of features


class View(NamedTuple):
    """n images as a system sees them at its native size, with their frozen features."""

    images: Tensor  # (n, 1, s, s) uint8
    features: Tensor | None  # (n, …); None if the system has no frozen image encoder
    mirrored: bool
    zoom: float = 1.0  # about the middle; the margin of an enlarged image is not in view


@dataclass(frozen=True)
class Predictor:
    """A system with all that its predictions depend on beside images and prompts."""

    system: System
    plan: Plan
    edges: tuple[float, float]  # of the size classes, in original pixels (words.size_edges)
    texts: TextTable

    @property
    def device(self) -> torch.device:
        """Where the system is."""
        return self.texts.device

    def views(self, images: Tensor) -> list[View]:
        """(n, 1, S, S) uint8 images as the plan wants them, and where it says so enlarged ones; the same mirrored."""
        images, found = at_native_size(images, self.plan), []
        for zoom in (1.0, self.plan.zoom_average) if self.plan.zoom_average else (1.0,):
            seen = images if zoom == 1 else zoomed(images, zoom)
            for mirrored in (False, True) if self.plan.flip_average else (False,):
                some = seen.flip(-1) if mirrored else seen
                found.append(View(some, encode(self.system, some, self.plan, self.device), mirrored, zoom))
        return found

    def prompt_tables(self, views: list[View], cases: pd.DataFrame, findings: list[Finding],
                      attributes: bool = True) -> list[pd.DataFrame]:
        """The prompts of n `cases` (words.build), a table for each view; size and location are those in view."""
        style, tables = getattr(self.system, "prompt_style", "paper"), []
        for view in views:
            shown = [words.zoomed(finding, view.zoom) for finding in findings] if view.zoom != 1 else findings
            shown = [words.mirror(finding) for finding in shown] if view.mirrored else shown
            tables.append(words.build(cases, shown, self.edges, attributes=attributes, style=style))
        return tables

    def mean_maps(self, views: list[View], tables: list[pd.DataFrame], chosen: list[int] | None = None) -> np.ndarray:
        """(n, S, S) float32 lesion probabilities, each the mean over the views that show the pixel, each view under its
        table of prompts.

        With `chosen`, positions of cases, of these alone.
        """
        part, total, count = slice(None) if chosen is None else chosen, 0, 0
        for view, table in zip(views, tables, strict=True):
            prompts = to_tensors(self.system, table.iloc[part], self.texts)
            features = None if view.features is None else view.features[part]
            found = probability_maps(self.system, view.images[part], features, prompts, self.plan, self.device)
            found = torch.from_numpy(found).flip(-1) if view.mirrored else torch.from_numpy(found)
            weight = 1 if view.zoom == 1 else zoomed(torch.ones_like(found[:1]), 1 / view.zoom)
            total = total + (found if view.zoom == 1 else zoomed(found, 1 / view.zoom))
            count = count + weight
        return (total / count).numpy()

    def first_pass(self, views: list[View], cases: pd.DataFrame, frames: list[tuple[int, int]],
                   attributes: bool = True) -> list[Finding]:
        """Size and location of each case by a pass whose prompt has neither; `frames` are original (width, height)."""
        blank = [Finding(None, None, frame) for frame in frames]
        maps = self.mean_maps(views, self.prompt_tables(views, cases, blank, attributes))
        return [words.from_first_pass(*pair, self.plan.config.first_pass_threshold)
                for pair in zip(maps, frames, strict=True)]

    def predict(self, views: list[View], cases: pd.DataFrame, prepared: Prepared, policy: str,
                attributes: str) -> tuple[np.ndarray, pd.DataFrame]:
        """(n, S, S) float32 probabilities of `cases` under one policy, and the table of prompts that led to them.

        `attributes`: "metadata" or "none". Reference masks are read only where `policy` is `paper` or `reference`.
        """
        rows, described = prepared.rows(cases["case_id"]), attributes == "metadata"
        frames = [tuple(int(side) for side in prepared.original_sizes[row]) for row in rows]
        references = proposals = [None] * len(rows)
        if policy in ("paper", "reference"):
            references = [words.from_reference(prepared, row) for row in rows]
        if policy in ("first_pass", "paper"):
            proposals = self.first_pass(views, cases, frames, described)
        findings = [words.combine(policy, *known) for known in zip(references, proposals, frames, strict=True)]
        tables = self.prompt_tables(views, cases, findings, described)
        return self.mean_maps(views, tables), tables[0]


def chunks(cases: pd.DataFrame) -> list[pd.DataFrame]:
    """The cases in parts of at most CHUNK."""
    return [cases.iloc[start:start + CHUNK] for start in range(0, len(cases), CHUNK)]


def images_of(cases: pd.DataFrame, prepared: Prepared) -> Tensor:
    """(n, 1, S, S) uint8 images of `cases`."""
    return torch.from_numpy(prepared.images[prepared.rows(cases["case_id"])])[:, None]


def at_native_size(images: Tensor, plan: Plan) -> Tensor:
    """(n, 1, S, S) uint8 images at the side that `plan` wants, bilinear with antialiasing; masks by nearest."""
    if plan.native_size is None:
        return images
    size = plan.native_size, plan.native_size
    if images.dtype == torch.bool:
        return F.interpolate(images.float(), size=size, mode="nearest-exact") > 0
    return F.interpolate(images.float(), size=size, mode="bilinear", antialias=True).round().to(torch.uint8)


def zoomed(images: Tensor, zoom: float) -> Tensor:
    """(…, S, S) images or maps enlarged about their middle, bilinear; zero where a shrunk one does not reach."""
    return V.affine(images, angle=0, translate=[0, 0], scale=zoom, shear=[0, 0],
                    interpolation=v2.InterpolationMode.BILINEAR)


def encode(system: System, images: Tensor, plan: Plan, device: torch.device) -> Tensor | None:
    """(n, …) frozen features of (n, 1, S, S) uint8 images, in batches; None if the system has none."""
    starts, parts = range(0, len(images), plan.config.prediction_batch), []
    for start in track(starts, "encoding images", len(starts)) if len(starts) > 1 else starts:
        batch = images[start:start + plan.config.prediction_batch].to(device).float().div_(255)
        features = frozen_features(system, batch, plan.amp)
        if features is None:
            return None
        parts.append(features)
    return torch.cat(parts)


@torch.no_grad()
def probability_maps(system: System, images: Tensor, features: Tensor | None, prompts: Prompts, plan: Plan,
                     device: torch.device) -> np.ndarray:
    """(n, S, S) float32 lesion probabilities of (n, 1, s, s) uint8 images under their prompts.

    S is the configured image_size, on which all systems are scored; s differs from it under a native size.
    """
    memory.keep_freed()
    system.eval()
    maps, step, side = [], plan.config.prediction_batch, plan.config.image_size
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        image = images[part].to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
        some = Prompts(*(None if value is None else value[part] for value in prompts))
        with precision.autocast(plan.amp, device):
            logits = system(image, None if features is None else features[part].float(), some)
        probabilities = torch.sigmoid(logits.float())
        if plan.native_size is not None:
            probabilities = F.interpolate(probabilities, size=(side, side), mode="bilinear")
        maps.append(probabilities[:, 0].cpu())
    return torch.cat(maps).numpy()
