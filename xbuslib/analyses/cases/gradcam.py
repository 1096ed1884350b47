"""Grad-CAM of each trained system (Figure 3), and whether its map depends on its weights.

Grad-CAM (Selvaraju et al. 2017) weighs the channels of one layer by the mean gradient of a target. For segmentation
the target is the sum of logits over a region (Vinogradova et al. 2020). The sanity check is that of Adebayo et al.
2018: a map that stays the same when the trained weights are drawn anew says nothing about what was learned.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from xbuslib.analyses.cases.selection import ELSEWHERE, INSIDE, NEAR, UNCHANGED, zones
from xbuslib.config import Config
from xbuslib.data.images import Prepared
from xbuslib.errors import StudyError
from xbuslib.inference.predict import images_of
from xbuslib.models import registry
from xbuslib.models.system import Prompts, System
from xbuslib.progress import track
from xbuslib.prompts.conditioning import to_tensors
from xbuslib.runs.study import Study
from xbuslib.runs.trained import Trained

TOP = 0.05  # share of the pixels that stand in for a prediction that is empty
DRAWS = 2  # random weights per map: one draw may be like the trained ones by chance


class Inputs(NamedTuple):
    """n cases as one run's system had them when it was scored under its default policy."""

    images: Tensor  # (n, 1, s, s) in [0, 1]
    features: Tensor | None
    prompts: Prompts


class StudyMaps(NamedTuple):
    """What Figure 3 is drawn from."""

    maps: dict[tuple[str, str], np.ndarray]  # (system, case_id): (S, S) in [0, 1]
    table: pd.DataFrame  # one row per system and case


class OfImages(nn.Module):
    """A system as grad-cam wants it, a function of the image alone: features and prompts are fixed."""

    def __init__(self, system: System, inputs: Inputs):
        super().__init__()
        self.system, self.inputs = system, inputs

    def forward(self, images: Tensor) -> Tensor:
        return self.system(images, self.inputs.features, self.inputs.prompts)


def grad_cam(model: nn.Module, layer: nn.Module, images: Tensor, regions: np.ndarray) -> tuple[np.ndarray, str]:
    """(n, s, s) maps in [0, 1] and the layer's own grid, "16×16", for images (n, ·, s, s) and regions (n, s, s).

    A map is ReLU(Σ_k α_k A_k), α_k the mean over the grid of the gradient of the summed logits in the region with
    respect to channel A_k; resized bilinearly, its minimum 0 and its maximum 1. A map that is 0 throughout stays so.
    `model` maps images to logits (n, 1, s, s).
    """
    inside = torch.from_numpy(regions).to(images.device)
    targets = [lambda logits, region=region: (logits[0] * region).sum() for region in inside]
    start = layer.register_forward_hook(lambda module, given, maps: maps.detach().requires_grad_())
    try:  # the graph starts at the layer: no gradient of what comes before it is computed
        with torch.enable_grad(), GradCAM(model, [layer]) as cam:
            maps = cam(images, targets)
            height, width = cam.activations_and_grads.activations[0].shape[-2:]
    finally:
        start.remove()
    return maps, f"{height}×{width}"


def target_regions(logits: np.ndarray, threshold: float) -> tuple[np.ndarray, list[str]]:
    """(n, s, s) bool regions whose logits are summed, and what each is, for logits (n, s, s).

    The predicted lesion; where nothing is predicted, the 5 % of pixels with the highest logits.
    """
    regions, names = logits >= np.log(threshold / (1 - threshold)), []
    for region, values in zip(regions, logits, strict=True):
        names.append("predicted lesion" if region.any() else f"top {TOP:.0%} of logits")
        if not region.any():
            highest = np.argsort(-values, axis=None, kind="stable")[:int(np.ceil(TOP * values.size))]
            region.flat[highest] = True
    return regions, names


def shares(cam: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Which part of an (S, S) map's activation lies inside the lesion, near its boundary and elsewhere
    (selection.zones); the three add up to 1. nan for a map without activation."""
    where, total = zones(mask), cam.sum()
    parts = {"inside": INSIDE, "near": NEAR, "elsewhere": ELSEWHERE}
    return {name: float(cam[where == zone].sum() / total) if total > 0 else np.nan for name, zone in parts.items()}


def similarity(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Spearman's rank correlation over pixels and SSIM of two (S, S) maps in [0, 1]; both 1 for equal maps.

    Correlation with a `second` without activation, which has no ranks, is 0; both are nan if the `first` has none.
    """
    if first.max() == 0:
        return np.nan, np.nan
    return ranks(first, second), float(structural_similarity(first, second, data_range=1.0))


def ranks(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation over pixels; 0 if either array is flat."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second, axis=None).statistic)


def untrained_weights(run: dict, seed: int) -> dict[str, Tensor]:
    """Random weights for all that a run trains, drawn from `seed`; random also where its training began from others."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return registry.build(run["system"], Config(**run["config"] | {"weights": "random"})).trainable_state()


@contextmanager
def randomised(system: System, untrained: dict[str, Tensor], modules: tuple[str, ...] | None = None) -> Iterator[None]:
    """The weights of `modules`, or all trained ones, are `untrained` within the block, and put back at its end.

    Frozen encoders keep theirs: they are not what was learned.
    """
    trained = {key: value.clone() for key, value in system.trainable_state().items()}
    prefixes = ("",) if modules is None else tuple(f"{name}." for name in modules)
    try:
        system.load_state_dict({key: value for key, value in untrained.items() if key.startswith(prefixes)},
                               strict=False)
        yield
    finally:
        system.load_state_dict(trained, strict=False)


def of_study(study: Study, chosen: pd.DataFrame) -> StudyMaps:
    """Maps, shares and sanity check of every system on the `chosen` cases (selection.choose), each by the run that
    validated it (first seed). Columns of the table: see `_rows`. Raises StudyError for a system without a layer."""
    systems = with_layer(study.systems)
    if not systems:
        raise StudyError("no system of this study names a layer for Grad-CAM (System.cam_layer)")
    cases = chosen[["rule", "case_id"]].merge(study.cases, on="case_id", validate="one_to_one")
    maps, tables = {}, []
    for name in track(systems, "Grad-CAM", len(systems)):
        parts = []
        for fold, some in cases.groupby("fold"):
            trained = Trained.load(study.run_folder(name, fold))
            if not parts:  # one set of untrained weights per system and draw
                untrained = [untrained_weights(trained.run, trained.run["seed"] + 1 + draw) for draw in range(DRAWS)]
            found, table = of_run(trained, some.reset_index(drop=True), study.prepared, untrained)
            maps |= {(name, case): cam for case, cam in zip(some["case_id"], found, strict=True)}
            parts.append(table)
        tables.append(pd.concat(parts).set_index("case_id").loc[cases["case_id"]].reset_index())  # order of `chosen`
    return StudyMaps(maps, pd.concat(tables, ignore_index=True))


def of_run(trained: Trained, cases: pd.DataFrame, prepared: Prepared,
           untrained: list[dict[str, Tensor]]) -> tuple[np.ndarray, pd.DataFrame]:
    """(n, S, S) maps of n validated `cases` (case_id, rule) by one run, and a row for each.

    `untrained` are the weights of the sanity check (untrained_weights).
    """
    system, run = trained.predictor.system, trained.run
    inputs, layer, side = inputs_of(trained, cases, prepared), system.cam_layer, prepared.masks.shape[-1]
    with torch.no_grad():
        logits = system(*inputs)[:, 0].float().cpu().numpy()
    regions, targets = target_regions(logits, run["config"]["threshold"])

    def draw() -> tuple[np.ndarray, str]:
        return grad_cam(OfImages(system, inputs), system.get_submodule(layer.path), inputs.images, regions)

    maps, grid = draw()
    others: dict[str, list[np.ndarray]] = {"all": [], "after": []}
    for weights in untrained:
        for which, modules in (("all", None), ("after", layer.after)):
            if modules != ():
                with randomised(system, weights, modules):
                    others[which].append(draw()[0])
    masks = prepared.masks[prepared.rows(cases["case_id"])]
    table = pd.DataFrame(_rows(cases, maps, others, logits, masks, side)).assign(
        system=run["system"], paper_name=run["paper_name"], fold=run["fold"], seed=run["seed"], layer=layer.path,
        grid=grid, target=targets, target_pixels=regions.sum(axis=(1, 2)))
    return np.stack([_at(cam, side) for cam in maps]), table


def inputs_of(trained: Trained, cases: pd.DataFrame, prepared: Prepared) -> Inputs:
    """The cases as the run's system had them: at its native size, with the prompts of the run's per_image.csv."""
    predictor, (policy, attributes) = trained.predictor, trained.run["scorings"][0]
    view = predictor.views(images_of(cases, prepared))[0]
    rows = pd.read_csv(trained.folder / "per_image.csv", keep_default_na=False, na_values=[""], dtype={"case_id": str})
    rows = rows[(rows["policy"] == policy) & (rows["attributes"] == attributes)].set_index("case_id")
    table = rows.loc[cases["case_id"]].reindex(columns=["global_text", "local_text", "x", "y"])
    return Inputs(view.images.to(predictor.device).float().div_(255),
                  None if view.features is None else view.features.float(),
                  to_tensors(predictor.system, table, predictor.texts))


def _rows(cases, maps, others, logits, masks, side) -> list[dict]:
    """Per case: shares of the activation, of the frame's area (`_area`), likeness to the logits; Spearman and SSIM
    with the maps of random weights, and the share of these without activation (`empty`). Means over draws; nan where
    nothing trained is after the layer."""
    rows = []
    for i, case in enumerate(cases.itertuples()):
        cam, mask = _at(maps[i], side), masks[i]
        even = {f"{name}_area": share for name, share in shares(np.ones(mask.shape), mask).items()}
        row = {"rule": case.rule, "case_id": case.case_id} | shares(cam, mask) | even
        row["like_logits"] = ranks(maps[i], logits[i]) if maps[i].any() else np.nan
        for which, drawn in others.items():
            pairs = [similarity(maps[i], other[i]) for other in drawn] or [(np.nan, np.nan)]
            row[f"spearman_{which}"], row[f"ssim_{which}"] = map(float, np.mean(pairs, axis=0))
            row[f"empty_{which}"] = np.mean([not other[i].any() for other in drawn]) if drawn else np.nan
        rows.append(row)
    return rows


def _at(cam: np.ndarray, side: int) -> np.ndarray:
    if cam.shape[-1] == side:
        return cam
    return F.interpolate(torch.from_numpy(cam)[None, None], size=(side, side), mode="bilinear")[0, 0].numpy()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over cases per system, number of maps without activation, and the sanity check in words."""
    numbers = ["inside", "near", "elsewhere", "like_logits", "spearman_all", "ssim_all", "empty_all",
               "spearman_after", "ssim_after", "empty_after"]
    grouped = table.groupby(["system", "paper_name", "layer", "grid"], sort=False)
    means = grouped[numbers].mean()
    means.insert(0, "cases", grouped.size())
    means.insert(1, "without_activation", grouped["inside"].agg(lambda shares: int(shares.isna().sum())))
    verdicts = [(means["spearman_all"] >= UNCHANGED, "unchanged by random weights"),
                (means["spearman_after"] >= UNCHANGED, "unchanged by random later layers")]
    means["sanity"] = np.select(*zip(*verdicts, strict=True), default="changes")
    means.loc[means["without_activation"] == means["cases"], "sanity"] = "no activation to compare"
    return means.reset_index()


def with_layer(systems: list[str]) -> list[str]:
    """Those of `systems` that name a layer for Grad-CAM."""
    return [name for name in systems if registry.known(name) and registry.system_class(name).cam_layer is not None]


def layer_table(systems: list[str]) -> pd.DataFrame:
    """system, paper_name, layer, reason of the systems that name a layer."""
    rows = [(name, registry.entry(name).paper, registry.system_class(name).cam_layer)
            for name in with_layer(systems)]
    return pd.DataFrame([{"system": name, "paper_name": paper, "layer": layer.path, "reason": layer.reason}
                         for name, paper, layer in rows], columns=["system", "paper_name", "layer", "reason"])


def layers_in_words(summary: pd.DataFrame) -> str:
    """ "decoder.1, 16×16 (UNet); …; fuse.0, 64×64 (all others)" for a caption: layer, its grid, whose it is."""
    groups = sorted(summary.groupby(["layer", "grid"], sort=False)["paper_name"], key=lambda group: len(group[1]))
    words = [f"{layer}, {grid} ({', '.join(names)})" for (layer, grid), names in groups]
    if len(groups) > 1 and len(groups[-1][1]) > 3:  # the last and largest needs no list
        words[-1] = "{}, {} (all others)".format(*groups[-1][0])
    return "; ".join(words)
