"""Prompts as tensors: each distinct text is embedded once; training prompts drop what a first pass lacks."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xbuslib import prompts
from xbuslib.config import Config
from xbuslib.images import Prepared
from xbuslib.models.system import Prompts, System


class TextTable:
    """Frozen embeddings of texts, computed once per distinct text."""

    def __init__(self, system: System, device: torch.device):
        self.system, self.device = system, device
        self.embeddings: dict[str, Tensor] = {}  # text: (d,)

    def __call__(self, texts: list[str]) -> Tensor:
        """(B, d) embeddings of B texts."""
        new = sorted(set(texts) - self.embeddings.keys())
        for start in range(0, len(new), 64):  # a batch of texts at a time bounds memory
            part = new[start:start + 64]
            self.embeddings |= dict(zip(part, self.system.encode_texts(part).float(), strict=True))
        return torch.stack([self.embeddings[text] for text in texts])


def to_tensors(system: System, table: pd.DataFrame, texts: TextTable) -> Prompts:
    """The rows of a prompt table (prompts.build) as what `system` reads: (B, d), (B, d), (B, 2)."""
    point = torch.tensor(table[["x", "y"]].to_numpy(), dtype=torch.float32, device=texts.device)
    return Prompts(
        global_text=texts(list(table["global_text"])) if "global_text" in system.prompts else None,
        local_text=texts(list(table["local_text"])) if "local_text" in system.prompts else None,
        point=point if "point" in system.prompts else None,
    )


class TrainingPrompts:
    """Prompts of a training fold, from reference masks and metadata, with size, place and attributes dropped at
    random so that a first pass, which knows none of them, is in distribution (docs/protocol.md, "Prompts")."""

    def __init__(self, system: System, cases: pd.DataFrame, prepared: Prepared, rows: np.ndarray,
                 edges: tuple[float, float], config: Config, texts: TextTable):
        findings = [prompts.from_reference(prepared, row) for row in rows]
        style = getattr(system, "prompt_style", "paper")
        self.system, self.texts, self.config = system, texts, config
        self.lesions = [np.argwhere(prepared.masks[row]) for row in rows]  # (pixels, 2) row, column
        self.side = prepared.masks.shape[-1]
        self.tables = {(size, place, attributes): prompts.build(cases, findings, edges, size=size, place=place,
                                                                attributes=attributes, style=style)
                       for size in (True, False) for place in (True, False) for attributes in (True, False)}

    def __call__(self, batch: list[int], generator: torch.Generator) -> Prompts:
        """Prompts of the training cases at positions `batch`, freshly dropped."""
        if not self.system.prompts:
            return Prompts()
        draw = torch.rand(len(batch), 4, generator=generator).tolist()
        rows = []
        for position, (a, b, c, d) in zip(batch, draw, strict=True):
            place = b >= self.config.drop_spatial
            kept = (a >= self.config.drop_spatial, place, c >= self.config.drop_attributes)
            row = self.tables[kept].iloc[position].copy()
            if place:  # a random lesion pixel each time, as BUSSAM's authors train (specification 5.4)
                pixel = self.lesions[position][int(d * len(self.lesions[position]))]
                row["y"], row["x"] = (pixel + 0.5) / self.side
            rows.append(row)
        return to_tensors(self.system, pd.DataFrame(rows), self.texts)
