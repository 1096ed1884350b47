"""Probability maps: frozen features once per image, then one pass per policy; the first pass of Section 2.7."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xbuslib import prompts
from xbuslib.conditioning import TextTable, to_tensors
from xbuslib.config import Config
from xbuslib.images import Prepared
from xbuslib.models.system import Prompts, System
from xbuslib.progress import track


def encode(system: System, images: Tensor, config: Config, device: torch.device) -> Tensor | None:
    """(n, …) frozen features of (n, 1, S, S) uint8 images, in batches; None if the system has none."""
    parts = []
    starts = range(0, len(images), config.prediction_batch)
    for start in track(starts, "encoding images", len(starts)):
        batch = images[start:start + config.prediction_batch].to(device).float().div_(255)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=config.amp):
            features = system.encode_images(batch)
        if features is None:
            return None
        parts.append(features.bfloat16() if config.amp else features)
    return torch.cat(parts)


@torch.no_grad()
def predict(system: System, images: Tensor, features: Tensor | None, given: Prompts, config: Config,
            device: torch.device) -> np.ndarray:
    """(n, S, S) float32 lesion probabilities of (n, 1, S, S) uint8 images under the prompts `given`."""
    system.eval()
    maps = []
    for start in range(0, len(images), config.prediction_batch):
        part = slice(start, start + config.prediction_batch)
        image = images[part].to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
        some = Prompts(*(None if value is None else value[part] for value in given))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.amp):
            logits = system(image, None if features is None else features[part].float(), some)
        maps.append(torch.sigmoid(logits.float())[:, 0].cpu())
    return torch.cat(maps).numpy()


def predict_policy(system: System, cases: pd.DataFrame, prepared: Prepared, policy: str, attributes: str,
                   edges: tuple[float, float], images: Tensor, features: Tensor | None, texts: TextTable,
                   config: Config, device: torch.device) -> tuple[np.ndarray, pd.DataFrame]:
    """(n, S, S) probabilities of `cases` under one policy, and the prompts that led to them.

    Reference masks are read only where `policy` is `paper` or `reference`.
    """
    rows = prepared.rows(cases["case_id"])
    frames = [tuple(int(side) for side in prepared.original_sizes[row]) for row in rows]
    style = getattr(system, "prompt_style", "paper")

    def run(findings: list[prompts.Finding]) -> tuple[np.ndarray, pd.DataFrame]:
        table = prompts.build(cases, findings, edges, attributes=attributes == "metadata", style=style)
        return predict(system, images, features, to_tensors(system, table, texts), config, device), table

    blank = [prompts.Finding(None, None, frame) for frame in frames]
    reference = [prompts.from_reference(prepared, row) for row in rows] if policy in ("paper", "reference") else blank
    proposals = blank
    if policy in ("first_pass", "paper"):
        maps, _ = run(blank)  # the first pass: no spatial text
        proposals = [prompts.from_first_pass(*pair, config.first_pass_threshold)
                     for pair in zip(maps, frames, strict=True)]
    return run([prompts.combine(policy, *triple)
                for triple in zip(reference, proposals, frames, strict=True)])
