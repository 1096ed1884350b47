"""Prompts as tensors: each distinct text is embedded once; training prompts drop what a first pass lacks."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xbuslib.data.images import Prepared
from xbuslib.models.system import Prompts, System
from xbuslib.models.visual_prompt import visual_prompt
from xbuslib.prompts import words
from xbuslib.training.recipes import Plan


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
    """The rows of a prompt table (words.build) as what `system` reads: (B, d), (B, d), (B, 2)."""
    point = torch.tensor(table[["x", "y"]].to_numpy(), dtype=torch.float32, device=texts.device)
    return Prompts(
        global_text=texts(list(table["global_text"])) if "global_text" in system.prompts else None,
        local_text=texts(list(table["local_text"])) if "local_text" in system.prompts else None,
        point=point if "point" in system.prompts else None,
    )


class TrainingPrompts:
    """Prompts of a training fold, from reference masks and metadata, with size, location and attributes dropped at
    random so that a first pass, which knows none of them, is in distribution (docs/protocol.md, "Prompts")."""

    def __init__(self, system: System, cases: pd.DataFrame, prepared: Prepared, rows: np.ndarray,
                 edges: tuple[float, float], plan: Plan, texts: TextTable):
        findings = [words.from_reference(prepared, row) for row in rows]
        self.system, self.texts, self.plan = system, texts, plan
        self.cases, self.edges, self.style = cases, edges, getattr(system, "prompt_style", "paper")
        self.frames = [finding.frame for finding in findings]
        # (pixels,) locations in raster order; 32 bits, since this is by far the most that a case needs here
        self.lesions = [np.flatnonzero(prepared.masks[row]).astype(np.int32) for row in rows]
        self.side = prepared.masks.shape[-1]
        self.tables = {kept: self._table(cases, findings, kept) for kept in product((True, False), repeat=3)}
        # Always in this order, and all at once: a text's embedding depends, in its last digit, on those beside it, and
        # a run that is repeated, or goes on from a checkpoint, must read the same numbers.
        for field in [name for name in ("global_text", "local_text") if name in system.prompts]:
            texts(sorted({text for table in self.tables.values() for text in table[field]}))

    def __call__(self, batch: list[int], generator: torch.Generator, masks: Tensor | None = None) -> Prompts:
        """Prompts of the training cases at positions `batch`, freshly dropped.

        `masks` (B, 1, S, S) are theirs after augmentation: size and location are then measured on these.
        """
        if not self.system.prompts:
            return Prompts()
        shown = None if masks is None else masks[:, 0].cpu().numpy()  # (B, S, S)
        draw = torch.rand(len(batch), 4, generator=generator).tolist()
        rows = []
        for i, (position, (a, b, c, d)) in enumerate(zip(batch, draw, strict=True)):
            location = b >= self.plan.drop_spatial
            kept = (a >= self.plan.drop_spatial, location, c >= self.plan.drop_attributes)  # size, location, attributes
            if shown is None:
                row, lesion, side = self.tables[kept].iloc[position].copy(), self.lesions[position], self.side
            else:
                row, lesion, side = self._augmented(position, shown[i], kept), np.flatnonzero(shown[i]), shown.shape[-1]
            if location and len(lesion):  # a random lesion pixel each time, as BUSSAM's authors train (spec. 5.4)
                y, x = divmod(int(lesion[int(d * len(lesion))]), side)
                row["y"], row["x"] = (y + 0.5) / side, (x + 0.5) / side
            rows.append(row)
        return to_tensors(self.system, pd.DataFrame(rows), self.texts)

    def _augmented(self, position: int, mask: np.ndarray, kept: tuple[bool, bool, bool]) -> pd.Series:
        """The row of prompts after augmentation. A lesion that has left the frame is not described at all."""
        frame, case = self.frames[position], self.cases.iloc[[position]]
        if not mask.any():
            return self._table(case, [words.Finding(None, None, frame)], (False, False, False)).iloc[0]
        return self._table(case, [words.measure(mask, frame)], kept).iloc[0]

    def _table(self, cases: pd.DataFrame, findings: list[words.Finding], kept: tuple[bool, bool, bool]):
        size, location, attributes = kept
        return words.build(cases, findings, self.edges, size=size, location=location, attributes=attributes,
                             style=self.style)

    @property
    def local_texts(self) -> list[str]:
        """The whole local prompt of each training case."""
        return list(self.tables[True, True, True]["local_text"])


class MixedPrompts:
    """Training prompts whose text conditions are mixed with pictures of lesions (specification 6.3, 7.7).

    The picture is that of a random training image with the same shape, margin and BI-RADS, which may be the image
    itself. One picture per image and step; each condition draws its own weight. `texts` (n) are the local prompts
    of the fold and `embeddings` (n, d) those of its pictures.
    """

    def __init__(self, prompts: Callable[..., Prompts], system: System, texts: list[str], embeddings: Tensor):
        self.prompts, self.system, self.embeddings = prompts, system, embeddings
        alike: dict[str, list[int]] = {}
        for position, text in enumerate(texts):
            alike.setdefault(text, []).append(position)
        self.alike = [alike[text] for text in texts]

    def __call__(self, batch: list[int], generator: torch.Generator, masks: Tensor | None = None) -> Prompts:
        given = self.prompts(batch, generator, masks)
        draw = torch.rand(len(batch), generator=generator).tolist()
        groups = [self.alike[position] for position in batch]
        chosen = [group[int(share * len(group))] for group, share in zip(groups, draw, strict=True)]
        visual = self.embeddings[torch.tensor(chosen, device=self.embeddings.device)]  # (B, d)
        has_partner = torch.tensor([len(group) > 1 for group in groups], device=visual.device)
        mixed = {field: self.system.mix_conditions(getattr(given, field), visual, has_partner, generator)
                 for field in ("global_text", "local_text") if getattr(given, field) is not None}
        return given._replace(**mixed)


@torch.no_grad()
def picture_embeddings(system: System, images: Tensor, masks: Tensor, plan: Plan) -> Tensor:
    """(n, d) embeddings of the lesions in (n, 1, S, S) uint8 images with bool masks, shown as visual prompts."""
    parts = []
    for pair in zip(images.split(plan.config.prediction_batch), masks.split(plan.config.prediction_batch), strict=True):
        shown = [visual_prompt(image[0].float() / 255, mask[0], image.shape[-1])
                 for image, mask in zip(*pair, strict=True)]
        parts.append(system.encode_visual(torch.stack(shown)).float())
    return torch.cat(parts)
