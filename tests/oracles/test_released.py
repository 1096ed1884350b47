"""XBusNet as released: its network, words and mixed conditions, written a second time (specification 7)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from oracles.plain import (
    IMAGENET,
    clip_image_embedding,
    close,
    conv,
    grid,
    group_norm,
    linear,
    post_norm_layer,
    residual_block,
    resnet,
    resnet_stage,
    scramble,
    three_channels,
    tokens,
    up_block,
    up_conv,
    watch_dropout,
)
from xbuslib.config import resolve
from xbuslib.data import catalogue
from xbuslib.data.images import bounding_box, centroid, contour_centroid, prepare, read_mask
from xbuslib.models import registry
from xbuslib.models.system import Prompts
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import MixedPrompts


def global_branch(s: dict, image: Tensor, text: Tensor) -> Tensor:
    """Specification 7.3: convolution, M(c)⊙f + A(c), convolution, GroupNorm of 8, SiLU. No token of CLIP."""
    f = conv(s, "gfe.stem", image, padding=1)
    f = linear(s, "gfe.multiply", text)[:, :, None, None] * f + linear(s, "gfe.add", text)[:, :, None, None]
    return F.silu(group_norm(s, "gfe.out.1", conv(s, "gfe.out.0", f, padding=1), 8))


def sfa(s: dict, name: str, f: Tensor, text: Tensor) -> Tensor:
    """γF + β + F, with γ and β the two halves of what a perceptron makes of the text."""
    scale, shift = linear(s, f"{name}.mlp.2", linear(s, f"{name}.mlp.0", text).relu()).chunk(2, 1)
    return scale[:, :, None, None] * f + shift[:, :, None, None] + f


def transformer(s: dict, name: str, f: Tensor) -> Tensor:
    """One post-norm layer of eight heads on the tokens of a map, without positions."""
    return grid(post_norm_layer(s, f"{name}.layer", tokens(f), 8), *f.shape[2:])


def local_branch(s: dict, image: Tensor, text: Tensor) -> Tensor:
    """Specification 7.4: what enters layer4, and is the first skip, has been through the transformer and SFA."""
    stem, one, two, three, _ = resnet(s, "lfe.encoder", image)
    three = sfa(s, "lfe.sfa.enc4", transformer(s, "lfe.block4", three), text)
    x = transformer(s, "lfe.block5", resnet_stage(s, "lfe.encoder.layer4", three, 2))
    x = sfa(s, "lfe.sfa.dec4", up_block(s, "lfe.up4", x, three), text)
    x = sfa(s, "lfe.sfa.dec3", up_block(s, "lfe.up3", x, two), text)
    x = sfa(s, "lfe.sfa.dec2", up_block(s, "lfe.up2", x, one), text)
    return up_conv(s, "lfe.final", up_block(s, "lfe.up1", x, stem))


def released(s: dict, image: Tensor, global_text: Tensor, local_text: Tensor) -> Tensor:
    """Specification 7.3 to 7.5; the group norms of the fusion have 8 groups."""
    image = three_channels(image, *IMAGENET)
    x = torch.cat([global_branch(s, image, global_text), local_branch(s, image, local_text)], 1)
    x = residual_block(s, "fuse.1", residual_block(s, "fuse.0", x, 8), 8)
    return conv(s, "head", x)


def built(size: str):
    torch.manual_seed(12)
    return scramble(registry.build("xbusnet-released", resolve("smoke", {"size": size, "image_size": 96})))


@pytest.fixture(scope="module")
def system():
    return built("quick")


def drawn(*shape: int, seed: int = 13) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the network --------------------------------------------------------------------------------------------


def test_the_forward_pass_is_that_of_the_specification(system):
    """Transformers' norms come after the sums; prompts enter as the text encoder gives them."""
    image, (one, two) = drawn(2, 1, 96, 96), 2 * drawn(2, 2, 128) - 1
    assert system.encode_images(image) is None
    with torch.no_grad():
        close(system(image, None, Prompts(one, two)), released(system.state_dict(), image, one, two))


def test_the_papers_size():
    """Specification 7.3 to 7.5, by the shapes: heads of 128 and 256 numbers, hidden widths max(256, C)."""
    with torch.device("meta"):
        system = registry.build("xbusnet-released", resolve("smoke", {"size": "paper", "image_size": 352}))
    s = system.state_dict()
    assert s["gfe.stem.weight"].shape == (64, 3, 3, 3) and s["gfe.multiply.weight"].shape == (64, 512)
    for block, width in (("block4", 1024), ("block5", 2048)):
        assert s[f"lfe.{block}.layer.linear1.weight"].shape == (4 * width, width)
        assert system.lfe.get_submodule(block).layer.self_attn.num_heads == 8
    assert {place: tuple(s[f"lfe.sfa.{place}.mlp.2.weight"].shape) for place in ("enc4", "dec4", "dec3", "dec2")} == {
        "enc4": (2048, 1024), "dec4": (2048, 1024), "dec3": (1024, 512), "dec2": (512, 256)}
    assert s["lfe.final.weight"].shape == (64, 32, 2, 2) and s["fuse.0.body.2.weight"].shape == (64, 96, 3, 3)
    norms = [system.gfe.out[1], *(block.body[i] for block in system.fuse for i in (0, 3))]
    assert [norm.num_groups for norm in norms] == [8] * 5


def test_a_tenth_is_dropped_in_the_transformers_in_training(system):
    image, text = drawn(4, 1, 96, 96), drawn(4, 128)

    def run():
        with torch.no_grad():
            return system(image, None, Prompts(text, text))

    torch.manual_seed(0)
    system.train()
    try:
        seen = watch_dropout(system.lfe, run)
        assert len(seen) == 6
        for name, (dropped, factor) in seen.items():
            assert dropped == pytest.approx(0.1, abs=0.02), name
            assert factor == pytest.approx(1 / 0.9, rel=1e-3), name
        assert [block.layer.self_attn.dropout for block in (system.lfe.block4, system.lfe.block5)] == [0.1, 0.1]
        assert not watch_dropout(system.gfe, run) and not watch_dropout(system.fuse, run)
    finally:
        system.eval()
    assert torch.equal(run(), run())


# ---- the words (7.6) ----------------------------------------------------------------------------------------

CASES = pd.DataFrame([
    {"case_id": "a", "shape": "irregular", "margin": "not circumscribed - spiculated&angular&indistinct",
     "birads": "4c"},
    {"case_id": "b", "shape": "oval", "margin": "circumscribed", "birads": "3"},
])
FINDINGS = [words.Finding((264, 213), (301.97, 87.2), (560, 420)), words.Finding((51, 184), (12.0, 250.5), (700, 289))]


def test_the_global_prompt_word_for_word():
    """Box and centroid in pixels of the original image, the centroid cut off, not rounded."""
    table = words.build(CASES, FINDINGS, (100.0, 200.0), style="released")
    assert list(table["global_text"]) == [
        "Ultrasound shows a tumor approximately 264×213 pixels near (301, 87).",
        "Ultrasound shows a tumor approximately 51×184 pixels near (12, 250)."]


def test_the_local_prompt_word_for_word():
    """The clinical table's own margin, with the dash; the sub-category."""
    table = words.build(CASES, FINDINGS, (100.0, 200.0), style="released")
    assert list(table["local_text"]) == [
        "Ultrasound shows a Tumor with irregular shaped, not circumscribed - spiculated&angular&indistinct margin, "
        "BIRADS 4c",
        "Ultrasound shows a Tumor with oval shaped, circumscribed margin, BIRADS 3"]


def written(folder, mask: np.ndarray):
    """The released prompt of a lesion, from its mask's file on."""
    Image.fromarray(np.where(mask, 30, 90).astype(np.uint8)).save(folder / "i.png")
    Image.fromarray(255 * mask.astype(np.uint8)).save(folder / "m.png")
    case = CASES.iloc[[0]].assign(image=str(folder / "i.png"), mask=str(folder / "m.png"), pixel_mm=0.1)
    prepared = prepare(case, 64, folder / "prepared")
    return words.build(case, [words.from_reference(prepared, 0)], (100.0, 200.0), style="released")["global_text"][0]


def test_the_centroid_is_that_of_the_outer_contour(tmp_path):
    """Corners (20, 10) and (99, 49): centroid (59.5, 29.5), box 80×40. A hole is inside the contour, so it moves
    nothing; by the pixels left the centroid would be (64, 29)."""
    mask = np.zeros((100, 150), bool)
    mask[10:50, 20:100] = True
    mask[20:40, 22:42] = False
    assert np.nonzero(mask)[1].mean() > 63
    assert written(tmp_path, mask) == "Ultrasound shows a tumor approximately 80×40 pixels near (59, 29)."


def test_the_contour_runs_through_the_centres_of_pixels(tmp_path):
    """A triangle of rows of 1, 3, … 63 pixels: its polygon's centroid lies two thirds down, 10 + 2·31/3 = 30.67. The
    stem below, one pixel wide and 12 long, has a contour without an area; it moves the mean of the pixels past 31."""
    mask = np.zeros((120, 120), bool)
    for row in range(32):
        mask[10 + row, 60 - row:60 + row + 1] = True
    mask[42:54, 60] = True
    assert np.nonzero(mask)[0].mean() > 31
    assert written(tmp_path, mask) == "Ultrasound shows a tumor approximately 63×44 pixels near (60, 30)."


def test_the_largest_component_is_traced(tmp_path):
    """A square of 20 pixels, and below it, found first by OpenCV, one of 6: (30, 30) is the middle of the large one."""
    mask = np.zeros((100, 100), bool)
    mask[20:41, 20:41] = True
    mask[80:86, 80:86] = True
    assert "near (30, 30)" in written(tmp_path, mask)
    assert "near (30, 69)" in written(tmp_path, mask[::-1])  # whichever comes first


def test_all_252_prompts_of_the_released_lists(blu_root):
    """Word for word, from the published files on."""
    lists = pd.concat(pd.read_csv(file) for file in (blu_root / "released_folds").glob("val_fold*.csv"))
    cases = catalogue.load("blu", blu_root)
    cases = cases[cases["mask"].notna()]
    masks = [read_mask(case.mask) for case in cases.itertuples()]
    findings = [words.Finding(bounding_box(mask), centroid(mask), mask.shape[::-1],
                              contour_centre=contour_centroid(mask)) for mask in masks]
    table = words.build(cases, findings, (100.0, 200.0), style="released")
    images = [Path(image).name for image in cases["image"]]
    told = lists.set_index("Image Name").loc[images]
    assert len(told) == 252
    assert list(told["Sentence"]) == list(table["global_text"])
    assert list(told["AGM_Prompt"]) == list(table["local_text"])


# ---- the mixed conditions (7.7) -----------------------------------------------------------------------------


def weights_of(mixed: Tensor, text: Tensor, visual: Tensor) -> Tensor:
    """w of w·text + (1 − w)·visual, which must explain every number."""
    w = ((mixed - visual) / (text - visual)).median(1).values
    close(mixed, w[:, None] * text + (1 - w[:, None]) * visual, 1e-4)
    return w


def test_each_sample_draws_its_own_uniform_weight(system):
    text, visual = drawn(300, 128), drawn(300, 128, seed=15)
    mixed = system.mix_conditions(text, visual, torch.ones(300, dtype=torch.bool), torch.Generator().manual_seed(16))
    w = weights_of(mixed, text, visual).sort().values
    assert (w - (torch.arange(300) + 0.5) / 300).abs().max() < 0.08  # Kolmogorov–Smirnov, p = 0.04


def test_without_a_partner_a_black_image_is_mixed_in(system):
    text, visual = drawn(4, 128), drawn(4, 128, seed=15)
    partner = torch.tensor([True, False, True, False])
    mixed = system.mix_conditions(text, visual, partner, torch.Generator().manual_seed(16))
    black = three_channels(torch.zeros(1, 1, 96, 96), *IMAGENET)
    black = clip_image_embedding(system.state_dict(), black, 3).expand(4, -1)
    w = weights_of(mixed, text, torch.where(partner[:, None], visual, black))
    assert w.min() > 0 and w.max() < 1


def test_where_nobody_has_a_partner_nothing_is_mixed_in(system):
    text = drawn(4, 128) + 1
    mixed = system.mix_conditions(text, drawn(4, 128, seed=15), torch.zeros(4, dtype=torch.bool),
                                  torch.Generator().manual_seed(16))
    w = weights_of(mixed, text, torch.zeros(4, 128))
    assert w.min() >= 0 and w.max() < 1 and w.std() > 0.05


class Recorder:
    """Stands for a system: keeps what it is asked to mix."""

    def __init__(self):
        self.asked = []

    def mix_conditions(self, text, visual, has_partner, generator):
        self.asked.append((text, visual, has_partner, torch.rand(1, generator=generator)))
        return text + 100


def test_pictures_are_of_images_with_the_same_local_prompt():
    """One picture per image for both conditions, each condition with its own draw; over many steps, each partner."""
    local = ["p", "q", "p", "r", "p", "q"]
    pictures = torch.arange(6.0)[:, None].repeat(1, 3)
    given = Prompts(torch.zeros(6, 3), torch.ones(6, 3), None)
    recorder = Recorder()
    mixed = MixedPrompts(lambda batch, generator, masks: given, recorder, local, pictures)
    generator, seen = torch.Generator().manual_seed(17), {i: set() for i in range(6)}
    for _ in range(60):
        recorder.asked.clear()
        out = mixed(list(range(6)), generator)
        (one, visual, partner, first), (two, again, _, second) = recorder.asked
        assert torch.equal(one, given.global_text) and torch.equal(two, given.local_text)
        assert torch.equal(visual, again) and first != second
        assert partner.tolist() == [True, True, True, False, True, True]
        assert torch.equal(out.global_text, given.global_text + 100) and torch.equal(out.local_text, two + 100)
        for i, picture in enumerate(visual[:, 0].int().tolist()):
            seen[i].add(picture)
    assert all(seen[i] == {j for j in range(6) if local[j] == local[i]} for i in range(6))
