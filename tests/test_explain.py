"""Grad-CAM against its formula; a layer with gradients for every system; shares and sanity check by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xbuslib.analyses.cases import gradcam, selection
from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.system import Prompts
from xbuslib.runs import record
from xbuslib.runs.trained import Trained

SIDE = 64


def formula(model, layer, image, region):
    """ReLU(Σ_k α_k A_k), α_k = mean gradient of the summed logits in `region`, resized, from 0 to 1: eqs. (1) and (2)
    of Selvaraju et al., by autograd."""
    kept = []
    handle = layer.register_forward_hook(lambda module, given, maps: kept.append(maps))
    logits = model(image)[0, 0]
    handle.remove()
    gradient, = torch.autograd.grad(logits[torch.from_numpy(region)].sum(), kept[0])
    weights = gradient[0].mean(dim=(1, 2))
    cam = (weights[:, None, None] * kept[0][0]).sum(dim=0).relu()
    cam = F.interpolate(cam[None, None], size=image.shape[-2:], mode="bilinear")[0, 0].detach().numpy()
    return (cam - cam.min()) / np.ptp(cam)


@pytest.mark.parametrize("stride", [1, 2])
def test_grad_cam_is_the_formula(stride):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 5, 3, stride, padding=1), nn.Tanh(), nn.Upsample(scale_factor=stride),
                          nn.Conv2d(5, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).eval()
    images, regions = torch.rand(2, 1, 16, 16), np.zeros((2, 16, 16), bool)
    regions[0, 2:6, 3:9] = regions[1, 8:, :5] = True
    maps, grid = gradcam.grad_cam(model, model[1], images, regions)
    assert grid == f"{16 // stride}×{16 // stride}"
    for i in (0, 1):
        expected = formula(model, model[1], images[i:i + 1], regions[i])
        assert np.ptp(expected) > 0.5 and maps[i] == pytest.approx(expected, abs=1e-4)
    assert np.abs(maps[0] - maps[1]).max() > 0.1  # each image has its own region
    assert not any(module._forward_hooks for module in model.modules())


def test_under_a_head_of_one_convolution_the_map_is_the_logit_map():
    """Why `cam_layer` stays one stage away from the head."""
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.Tanh()), nn.Conv2d(6, 1, 1, bias=False)
    model, image = nn.Sequential(body, head).eval(), torch.randn(1, 1, 16, 16)  # logits of both signs
    region = np.zeros((1, 16, 16), bool)
    region[0, 4:8, 4:8] = True
    maps, _ = gradcam.grad_cam(model, body, image, region)
    logits = model(image)[0, 0].relu().detach().numpy()
    assert maps[0] == pytest.approx((logits - logits.min()) / np.ptp(logits), abs=1e-4)


@pytest.mark.parametrize("name", registry.names())
def test_every_system_has_a_layer_with_gradients(name):
    torch.manual_seed(0)
    system, layer = registry.build(name, resolve("smoke")).eval(), registry.system_class(name).cam_layer
    images = torch.rand(1, 1, SIDE, SIDE)
    texts = system.encode_texts(["a lesion"]) if {"global_text", "local_text"} & set(system.prompts) else None
    inputs = gradcam.Inputs(images, system.encode_images(images), Prompts(texts, texts, torch.tensor([[0.4, 0.6]])))
    trained = {id(p) for p in system.parameters() if p.requires_grad}
    order, kept = [], []
    for path, module in system.named_modules():
        if any(id(p) in trained for p in module.parameters(recurse=False)) or path == layer.path:
            module.register_forward_hook(lambda module, given, out, path=path: order.append(path))
    system.get_submodule(layer.path).register_forward_hook(lambda module, given, out: kept.append(out))

    logits = gradcam.OfImages(system, inputs)(images)
    gradient, = torch.autograd.grad(logits.sum(), kept[0])
    assert logits.shape == (1, 1, SIDE, SIDE) and gradient.ndim == 4 and gradient.abs().max() > 0
    later = order[order.index(layer.path) + 1:]
    assert {path for path in later if not path.startswith(tuple(f"{m}." for m in layer.after) + layer.after)} == set()
    assert all(any(path == m or path.startswith(f"{m}.") for path in later) for m in layer.after)
    assert layer.reason


def test_layers_are_named_for_the_registry():
    assert gradcam.with_layer(registry.names()) == registry.names()
    table = gradcam.layer_table(["bussam", "unet"])
    assert table["paper_name"].tolist() == ["BUSSAM", "UNet"]


def test_target_is_the_prediction_or_the_highest_twentieth():
    logits = np.zeros((2, 20, 20))
    logits[0] -= 3
    logits[0, 4:6, 4] = 0.9
    logits[1] = -10 - np.arange(400).reshape(20, 20)
    regions, names = gradcam.target_regions(logits, 0.7)  # logit of 0.7: 0.847
    assert names == ["predicted lesion", "top 5% of logits"]
    assert np.argwhere(regions[0]).tolist() == [[4, 4], [5, 4]]
    assert np.flatnonzero(regions[1]).tolist() == list(range(20))
    flat, _ = gradcam.target_regions(np.full((1, 20, 20), -1.0), 0.5)  # ties still give one twentieth
    assert flat.sum() == 20


def test_shares_of_a_map_made_by_hand():
    mask, cam = np.zeros((9, 9), bool), np.zeros((9, 9))
    mask[3:6, 3:6] = True
    cam[4, 4], cam[3, 3], cam[2, 3], cam[0, 0], cam[8, 1] = 2, 1, 1, 0.5, 0.5
    assert gradcam.shares(cam, mask) == pytest.approx({"inside": 0.4, "near": 0.4, "elsewhere": 0.2})
    some = np.random.default_rng(0).random((9, 9))
    assert sum(gradcam.shares(some, mask).values()) == pytest.approx(1)
    assert np.isnan(list(gradcam.shares(np.zeros((9, 9)), mask).values())).all()


def test_similarity_of_equal_reversed_and_empty_maps():
    some = np.random.default_rng(0).random((32, 32))
    assert gradcam.similarity(some, some) == pytest.approx((1, 1))
    rank, ssim = gradcam.similarity(some, 1 - some)
    assert rank == pytest.approx(-1) and ssim < 0
    ordered = pd.Series(some.ravel()).rank().to_numpy().reshape(32, 32) / 1024  # ranks do not see a monotone change
    assert gradcam.similarity(some, ordered)[0] == pytest.approx(1)
    assert gradcam.similarity(some, np.zeros((32, 32)))[0] == 0
    assert np.isnan(gradcam.similarity(np.zeros((32, 32)), some)).all()


@pytest.mark.parametrize("modules", [None, ("fuse.1", "head")])
def test_random_weights_are_put_back(smoke_study, modules):
    trained = Trained.load(smoke_study.run_folder("xbusnet", 0))
    system = trained.predictor.system
    before = {key: value.clone() for key, value in system.state_dict().items()}
    untrained = gradcam.untrained_weights(trained.run, 5)
    with pytest.raises(KeyError), gradcam.randomised(system, untrained, modules):
        changed = {key for key, value in system.state_dict().items() if not torch.equal(value, before[key])}
        raise KeyError
    assert all(torch.equal(value, before[key]) for key, value in system.state_dict().items())
    assert changed and not any(key.startswith("clip.") for key in changed)
    if modules:
        assert {key.rsplit(".", 1)[0].split(".body")[0].split(".skip")[0] for key in changed} == {"fuse.1", "head"}
    else:
        assert {"gfe", "lfe", "fuse", "head"} == {key.split(".")[0] for key in changed}


@pytest.fixture(scope="module")
def chosen(smoke_study):
    return selection.choose(selection.candidates(smoke_study))


@pytest.fixture(scope="module")
def cams(smoke_study, chosen):
    return gradcam.of_study(smoke_study, chosen)


@pytest.mark.parametrize("name", ["unet", "bussam", "xbusnet"])
def test_systems_get_the_inputs_they_were_scored_on(smoke_study, chosen, name):
    """Image, features and prompts give the probabilities that the run holds."""
    cases = chosen[chosen["fold"] == 0].merge(smoke_study.cases.drop(columns="fold"), on="case_id")
    trained = Trained.load(smoke_study.run_folder(name, 0))
    inputs = gradcam.inputs_of(trained, cases, smoke_study.prepared)
    with torch.no_grad():
        found = trained.predictor.system(*inputs)[:, 0].sigmoid().numpy()
    kept = record.probabilities(trained.folder)
    for case, probabilities in zip(cases["case_id"], found, strict=True):
        assert probabilities == pytest.approx(kept[case], abs=0.02)  # float32 here, perhaps bfloat16 there


def test_maps_of_a_study(smoke_study, chosen, cams):
    table = cams.table
    assert table[["system", "case_id"]].agg(tuple, axis=1).tolist() == \
        [(system, case) for system in smoke_study.systems for case in chosen["case_id"]]
    assert set(cams.maps) == set(table[["system", "case_id"]].agg(tuple, axis=1))
    for cam in cams.maps.values():
        assert cam.shape == (SIDE, SIDE) and cam.min() >= 0 and cam.max() <= 1 + 1e-6
    known = table.dropna(subset=["inside"])
    assert known[["inside", "near", "elsewhere"]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert table[["inside_area", "near_area", "elsewhere_area"]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert table["case_id"].map(chosen.set_index("case_id")["fold"]).tolist() == table["fold"].tolist()
    row = known.iloc[0]
    mask = smoke_study.prepared.masks[smoke_study.prepared.rows([row["case_id"]])[0]]
    cam = cams.maps[row["system"], row["case_id"]]
    assert row["inside"] == pytest.approx(cam[selection.zones(mask) == selection.INSIDE].sum() / cam.sum())


def test_random_weights_change_the_maps(cams):
    known = cams.table.dropna(subset=["spearman_all"])
    assert len(known) > 0 and known["spearman_all"].between(-1, 0.999).all() and (known["ssim_all"] < 0.999).all()
    assert cams.table.loc[cams.table["system"] == "bussam", "spearman_after"].isna().all()  # nothing trained is after


def test_summary_flags_what_does_not_change(cams):
    table = cams.table.copy()
    table[["inside", "near", "elsewhere"]] = [0.5, 0.25, 0.25]
    table.loc[table["system"] == "unet", "spearman_all"] = [0.2, 0.6, 0.7, 0.9]
    table.loc[table["system"] == "uresnet", "spearman_all"] = [0.2, 0.6, 0.1, 0.3]
    table.loc[table["system"] == "xbusnet", ["inside", "near", "elsewhere", "spearman_all"]] = np.nan
    table["spearman_after"] = np.where(table["system"] == "bussam", 0.53, 0.1)
    table.loc[table["system"] == "bussam", "spearman_all"] = 0.2
    found = gradcam.summary(table).set_index("system")
    assert found.loc["unet", "spearman_all"] == pytest.approx(0.6)
    assert found["sanity"].loc[["unet", "uresnet", "bussam", "xbusnet"]].tolist() == [
        "unchanged by random weights", "changes", "unchanged by random later layers", "no activation to compare"]
    assert found.loc["xbusnet", "without_activation"] == 4


def test_layers_in_words():
    rows = [("UNet", "decoder.1", "16×16"), *((f"X{i}", "fuse.0", "64×64") for i in range(4))]
    table = pd.DataFrame(rows, columns=["paper_name", "layer", "grid"])
    assert gradcam.layers_in_words(table) == "decoder.1, 16×16 (UNet); fuse.0, 64×64 (all others)"
    assert gradcam.layers_in_words(table.tail(4)) == "fuse.0, 64×64 (X0, X1, X2, X3)"


def test_a_system_without_a_layer(smoke_study, chosen, monkeypatch):
    """It is left out of the figure, and the others are drawn."""
    monkeypatch.setattr(registry.system_class("uresnet"), "cam_layer", None)
    found = gradcam.of_study(smoke_study, chosen)
    assert set(found.table["system"]) == set(smoke_study.systems) - {"uresnet"}
