"""The three recipes: numbers against specs/baselines.md 9.2, schedules by hand, and each of them run."""

import json
import math
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xbuslib.analyses.training import plan_table
from xbuslib.config import resolve
from xbuslib.errors import StudyError
from xbuslib.inference.predict import Predictor, View, at_native_size, probability_maps, zoomed
from xbuslib.models.bussam import BUSSAM
from xbuslib.models.system import Prompts, System, count
from xbuslib.models.ukan import UKAN
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import MixedPrompts, TextTable
from xbuslib.runs import record
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source
from xbuslib.training import augmentation, loop, losses, recipes
from xbuslib.training.loop import TrainingData, WeightAverage

CPU = torch.device("cpu")
WITH_OFFICIAL = ["ukan", "anatosegnet", "bussam", "cliptnseg", "xbusnet-released"]  # specs/baselines.md 9.2


def plan(system, profile="paper", n=202, **overrides):
    return recipes.plan(system, resolve(profile, overrides), n)


# ---- the numbers ----------------------------------------------------------------------------------------------


def test_uniform_is_section_2_3():
    p = plan("anything")
    assert (p.iterations, p.batch_size, p.rates, p.optimiser, p.amp) == (1000, 4, {"other": 1e-4}, "adamw", True)
    assert (p.loss, p.weight_decay, p.last_batch, p.shuffle) == (losses.soft_dice_loss, 0.01, "continued", True)
    assert (p.drop_spatial, p.drop_attributes) == (0.3, 0.3)
    assert not (p.augmentation or p.native_size or p.mix_visual or p.ema_decay or p.flip_average or p.own_resolution)
    assert p.rate(0) == pytest.approx(1e-4) and p.rate(1000) == pytest.approx(1e-6)
    assert p.rate(500) == pytest.approx((1e-4 + 1e-6) / 2)
    assert p.rate(250) == pytest.approx(1e-6 + 0.99e-4 * (1 + math.sqrt(0.5)) / 2)


def test_what_the_paper_does_not_state_is_marked():
    """Section 2.3: iterations, batch, optimiser, initial rate, cosine, mixed precision; nothing of loss or decay."""
    table = plan_table(recipes.plan("xbusnet", resolve("paper"), 200).record()).set_index("setting")
    marked = table["the paper's protocol"].str.endswith(" ‡")
    assert set(marked.index[~marked]) == {"recipe", "iterations", "batch size", "learning rate", "optimiser",
                                          "schedule", "mixed precision"}
    assert {"loss", "weight decay", "augmentation"} <= set(marked.index[marked])
    for iterations in (0, 1):  # numbers, not no and yes
        table = plan_table(recipes.plan("unet", resolve("paper", {"iterations": iterations}), 200).record())
        assert table.set_index("setting").loc["iterations", "this run"] == str(iterations)


@pytest.mark.parametrize("system, n, iterations", [
    ("ukan", 201, 10_000), ("ukan", 202, 10_000), ("anatosegnet", 201, 650), ("anatosegnet", 202, 650),
    ("bussam", 201, 2600), ("bussam", 202, 2600), ("cliptnseg", 201, 20_000), ("xbusnet-released", 202, 1000),
])
def test_official_lengths_on_blu(system, n, iterations):
    assert plan(system, n=n, recipe="official").iterations == iterations


@pytest.mark.parametrize("system, loss, optimiser, rates, decay, batch, native, augmented, amp", [
    ("ukan", "ukan_loss", "adam", {"kan": 1e-2, "other": 1e-4}, 1e-4, 8, 256, "quarter_turns_and_flips", False),
    ("anatosegnet", "cross_entropy_loss", "adam", {"other": 1e-4}, 1e-4, 16, 256, "flips_or_small_turns", False),
    ("bussam", "bussam_loss", "adamw", {"other": 5e-4}, 0.1, 8, 256, "gamma_turn_scale_contrast", False),
    ("cliptnseg", "released_dice_loss", "adamw", {"other": 1e-4}, 0.01, 16, None, "lesion_aware_square", True),
    ("xbusnet-released", "released_dice_loss", "adamw", {"other": 1e-4}, 0.01, 4, None, None, True),
])
def test_official_is_table_9_2(system, loss, optimiser, rates, decay, batch, native, augmented, amp):
    p = plan(system, recipe="official")
    assert (p.loss.__name__, p.optimiser, p.rates, p.weight_decay) == (loss, optimiser, rates, decay)
    assert (p.batch_size, p.native_size, p.amp) == (batch, native, amp)
    assert p.augmentation is (getattr(augmentation, augmented) if augmented else None)
    assert (p.drop_spatial, p.drop_attributes, p.ema_decay, p.flip_average) == (0, 0, None, False)
    assert p.mix_visual == (system in ("cliptnseg", "xbusnet-released"))
    assert p.last_batch == ("dropped" if system == "ukan" else "kept") and p.shuffle == (system != "cliptnseg")
    json.dumps(p.record())


def test_official_schedules():
    ukan, anato, bussam, clip, released = (plan(name, recipe="official") for name in WITH_OFFICIAL)
    assert [ukan.rate(step, "kan") for step in (0, 24)] == [1e-2, 1e-2]  # 25 iterations per epoch
    assert ukan.rate(25, "kan") == pytest.approx(1e-5 + (1e-2 - 1e-5) * (1 + math.cos(math.pi / 400)) / 2)
    assert ukan.rate(5000, "other") == pytest.approx((1e-4 + 1e-5) / 2) and ukan.rate(10_000) == pytest.approx(1e-5)
    steps = (0, 13 * 20 - 1, 13 * 20, 13 * 40, 649)
    assert [anato.rate(step) for step in steps] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6, 1e-6])
    assert [bussam.rate(step) for step in (0, 124, 249, 250)] == pytest.approx([2e-6, 2.5e-4, 5e-4, 5e-4])
    assert bussam.rate(1550) == pytest.approx(5e-4 * 0.5**0.9)
    assert clip.rate(10_000) == pytest.approx((1e-4 + 1e-6) / 2) and clip.rate(20_000) == pytest.approx(1e-6)
    assert released.rate(1000) == pytest.approx(9.94e-5, rel=1e-3)  # specification 7.8: nearly constant


def test_schedules_agree_with_torch():
    weight = nn.Parameter(torch.zeros(1))
    for p, make in ((plan("anatosegnet", recipe="official"),
                     lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=20, gamma=0.1)),
                    (plan("ukan", recipe="official", learning_rate=1e-4),
                     lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=400, eta_min=1e-5))):
        optimiser = torch.optim.Adam([weight], lr=1e-4)
        scheduler, epoch = make(optimiser), 13 if p.batch_size == 16 else 25
        for k in range(50):
            assert p.rate(k * epoch) == pytest.approx(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step()


def test_strong_is_one_for_every_system_and_differs_from_uniform_where_it_says():
    a, b, uniform = plan("ukan", recipe="strong"), plan("xbusnet", recipe="strong"), plan("xbusnet")
    assert a.record() == b.record()
    differs = {key for key, value in b.record().items() if value != uniform.record()[key]}
    assert differs == {"recipe", "loss", "augmentation", "ema_decay", "flip_average", "zoom_average"}
    assert (b.loss, b.augmentation) == (losses.cross_entropy_dice_loss, augmentation.strong)
    assert (b.ema_decay, b.flip_average, b.zoom_average) == (0.99, True, 1.25)


@pytest.mark.parametrize("system", ["unet", "uresnet", "xbusnet", "xbusnet-no-lfe"])
def test_no_official_recipe(system):
    with pytest.raises(StudyError, match=f"{system} has no official recipe.*ukan, anatosegnet, bussam, cliptnseg, xb"):
        plan(system, recipe="official")


@pytest.mark.parametrize("recipe", ["uniform", "strong", "official"])
def test_what_is_left_out_of_prompts_without_a_system(recipe):
    for system in WITH_OFFICIAL:
        for given in ({}, {"drop_spatial": 0.5}, {"drop_attributes": 0.0}):
            p = plan(system, recipe=recipe, **given)
            assert recipes.dropped(resolve("paper", given | {"recipe": recipe})) == (p.drop_spatial, p.drop_attributes)


def test_what_is_set_wins():
    p = plan("ukan", recipe="official", iterations=7, batch_size=5, learning_rate=3e-4, weight_decay=0, amp=True,
             final_learning_rate=0, drop_spatial=0.5)
    assert (p.iterations, p.batch_size, p.weight_decay, p.amp, p.drop_spatial) == (7, 5, 0, True, 0.5)
    assert p.rates == {"kan": 1e-2, "other": 3e-4} and p.rate(400 * 40) == 0  # 40 iterations of 5 in 202
    assert plan("ukan", "smoke", recipe="official").iterations == 6  # the small profiles set a length
    assert plan("bussam", recipe="official", image_size=160).native_size is None
    with pytest.raises(StudyError, match="bussam has no final_learning_rate"):
        plan("bussam", recipe="official", final_learning_rate=0)
    with pytest.raises(StudyError, match="5 training images do not fill one of 8"):
        plan("ukan", n=5, recipe="official")


# ---- the loop -------------------------------------------------------------------------------------------------


def test_batches_kept_dropped_and_in_order():
    generator = torch.Generator().manual_seed(0)

    def draw(times, *given):
        queue = []
        return [loop.next_batch(queue, 7, 3, generator, *given) for _ in range(times)]

    kept = draw(6, True, "kept")
    assert [len(batch) for batch in kept] == [3, 3, 1] * 2 and sorted(chain(*kept[:3])) == list(range(7))
    dropped = draw(4, True, "dropped")
    assert all(len(set(chain(*dropped[k:k + 2]))) == 6 for k in (0, 2))
    assert draw(4, False, "kept") == [[0, 1, 2], [3, 4, 5], [6], [0, 1, 2]]


def test_parameter_groups_of_ukan():
    system = UKAN("quick", "random")
    optimiser = loop.make_optimiser(system, plan("ukan", recipe="official"))
    assert isinstance(optimiser, torch.optim.Adam)
    sizes = {group["name"]: sum(p.numel() for p in group["params"]) for group in optimiser.param_groups}
    assert {group["name"]: group["lr"] for group in optimiser.param_groups} == {"kan": 1e-2, "other": 1e-4}
    assert sizes["kan"] == 3 * 10 * (2 * 96**2 + 2 * 128**2) and sum(sizes.values()) == count(system)[0]
    assert all(group["weight_decay"] == 1e-4 for group in optimiser.param_groups)
    plain = loop.make_optimiser(system, plan("ukan"))
    assert [group["name"] for group in plain.param_groups] == ["other"]


class Dot(System):
    """A 1×1 convolution, batch normalisation and dropout: the smallest system."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Dropout(0.2)

    def forward(self, image, image_features, prompts):
        return self.norm(self.conv(self.drop(image)))


def data(n=7):
    images = torch.randint(0, 255, (n, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TrainingData(images, images > 127, None, lambda *given: Prompts(), torch.tensor([[500, 400]] * n))


def test_weight_average_by_hand():
    system = Dot()
    weight, seen, expected = system.conv.weight, [1.0, 4.0, -2.0, 3.0], 1.0
    with torch.no_grad():
        weight.fill_(seen[0])
        average = WeightAverage(system, 0.15)
        for step, value in enumerate(seen[1:]):
            weight.fill_(value)
            average.update(system, step)
            kept = (0.1, 0.15, 0.15)[step]  # 1/10, then 2/11 and 3/12 are over the decay
            expected = kept * expected + (1 - kept) * value
            assert average.state["conv.weight"].item() == pytest.approx(expected)
    system.norm.running_mean.fill_(10)
    system.norm.num_batches_tracked.fill_(5)
    average.update(system, 3)
    assert average.state["norm.running_mean"].item() == pytest.approx(8.5)
    assert average.state["norm.num_batches_tracked"].item() == 5


def test_the_average_is_the_result():
    torch.manual_seed(3)
    system, last = Dot(), {}
    step, settings = loop.train_step, plan("dot", "smoke", 7, recipe="strong", iterations=5, amp=False)

    def watch(system, *given):
        result = step(system, *given)
        last.update({key: value.clone() for key, value in system.trainable_state().items()})
        return result

    loop.train_step = watch
    try:
        loop.fit(system, data(), settings, seed=5, device=CPU)
    finally:
        loop.train_step = step
    assert not torch.equal(system.conv.weight, last["conv.weight"])
    torch.testing.assert_close(system.conv.weight, last["conv.weight"], atol=0.02, rtol=0)  # but not far from it


def test_killed_and_resumed_gives_the_same_result_under_strong(tmp_path, monkeypatch):
    settings = plan("dot", "smoke", 7, recipe="strong", iterations=10, amp=False)
    results = []
    for kill in (None, 7, None):
        torch.manual_seed(3)
        system, done, step = Dot(), [], loop.train_step

        def stop(*given, kill=kill, done=done, step=step):
            if len(done) == kill:
                raise KeyboardInterrupt
            done.append(1)
            return step(*given)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", stop)
            checkpoint = tmp_path / "checkpoint.pt" if kill or results else None
            try:
                results.append((loop.fit(system, data(), settings, 5, CPU, checkpoint), system.trainable_state()))
            except KeyboardInterrupt:
                held = torch.load(checkpoint, weights_only=True)
                assert held["step"] == 6 and "average" in held and 0 < held["seconds"] < 1000
                torch.save(held | {"seconds": 1000.0}, checkpoint)
    assert results[-1][0].attrs["seconds"] > 1000 > results[0][0].attrs["seconds"]  # the killed process counts
    (history, whole), (again, resumed) = results
    assert len(done) == 4 and again.equals(history)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_resumed_training_reads_the_embeddings_of_the_killed_one(tmp_path):
    """Augmentation makes new texts on the way; an embedding depends, in its last digit, on those beside it."""
    settings, checkpoint = plan("dot", "smoke", 7, recipe="strong", iterations=4, amp=False), tmp_path / "checkpoint.pt"
    first = replace(data(), texts={"at the start": torch.ones(2), "later": torch.full((2,), 1 / 3)})
    loop.fit(Dot(), first, settings, 5, CPU, checkpoint)
    again = replace(data(), texts={"at the start": torch.zeros(2)})
    loop.fit(Dot(), again, settings, 5, CPU, checkpoint)
    assert again.texts.keys() == first.texts.keys()
    assert all(torch.equal(again.texts[text], first.texts[text]) for text in first.texts)


# ---- prediction -----------------------------------------------------------------------------------------------


class Ramp(System):
    """Logits that show image, side and prompt: brightness, more towards the right, and the point's x."""

    prompts = ("point",)

    def __init__(self, ramp):
        super().__init__()
        self.ramp = ramp

    def forward(self, image, image_features, prompts):
        columns = torch.linspace(0, 1, image.shape[-1]).expand_as(image)
        return image + self.ramp * columns + prompts.point[:, 0, None, None, None]


def predictor(system, settings):
    return Predictor(system, settings, (5.0, 8.0), TextTable(system, CPU))


def averaged(ramp, point, **overrides):
    settings = replace(plan("ramp", "smoke", recipe="strong", amp=False, **overrides), zoom_average=None)
    image = torch.randint(0, 255, (1, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    system, cases = Ramp(ramp), pd.DataFrame({"case_id": ["a"], "shape": ["oval"], "margin": [None], "birads": ["3"]})
    own = predictor(system, settings)
    finding = words.Finding((9, 9), (point * 64 - 0.5, 30.0), (64, 64), (point, 0.5))

    class OneCase:
        original_sizes = np.array([[64, 64]])

        def rows(self, ids):
            return [0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "from_reference", lambda prepared, row: finding)
        maps, prompts = own.predict(own.views(image), cases, OneCase(), "reference", "none")
    return maps[0], prompts, image[0, 0].float() / 255


def test_flip_average_of_a_system_that_does_not_care_about_sides():
    maps, _, image = averaged(0.0, 0.5)
    np.testing.assert_allclose(maps, torch.sigmoid(image + 0.5), atol=1e-6)


def test_flip_average_is_the_mean_over_both_views_with_mirrored_prompts():
    maps, prompts, image = averaged(1.0, 0.25)
    columns = torch.linspace(0, 1, 64)
    plain, other = torch.sigmoid(image + columns + 0.25), torch.sigmoid(image + columns.flip(0) + 0.75)
    np.testing.assert_allclose(maps, (plain + other) / 2, atol=1e-6)
    assert prompts["quadrant"].tolist() == ["upper left"] and prompts["x"].tolist() == [0.25]  # as it is, not mirrored


def test_views_are_one_or_four_and_hold_their_own_features():
    class Encoded(System):
        def encode_images(self, images):
            return images[..., 0].float()  # (B, 1, S) the left column

    image = torch.randint(0, 255, (3, 1, 64, 64), dtype=torch.uint8)
    one = predictor(Encoded(), plan("x", "smoke", amp=False)).views(image)
    four = predictor(Encoded(), plan("x", "smoke", recipe="strong", amp=False)).views(image)
    assert [(view.mirrored, view.zoom) for view in one] == [(False, 1)]
    assert [(view.mirrored, view.zoom) for view in four] == [(False, 1), (True, 1), (False, 1.25), (True, 1.25)]
    assert torch.equal(four[1].images, image.flip(-1)) and torch.equal(four[0].features, image[..., 0].float() / 255)
    assert torch.equal(four[1].features, image[..., -1].float() / 255)
    assert torch.equal(four[3].images, four[2].images.flip(-1)) and not torch.equal(four[2].images, image)


def test_an_enlarged_view_is_laid_back_where_it_was():
    """A system that says what it sees: the map of a smooth image is the image; at the margin the plain view alone."""
    class Seen(System):
        def forward(self, image, image_features, prompts):
            return torch.logit(image.clamp(0.01, 0.99))

    side = torch.linspace(0.2, 0.8, 64)
    image = (255 * (side[:, None] * side).sqrt()).round().to(torch.uint8)[None, None]
    own = predictor(Seen(), replace(plan("x", "smoke", recipe="strong", amp=False), flip_average=False))
    views = own.views(image)
    assert [view.zoom for view in views] == [1, 1.25]
    case = pd.DataFrame({"case_id": ["a"], "shape": ["oval"], "margin": [None], "birads": ["3"]})
    tables = own.prompt_tables(views, case, [words.Finding(None, None, (64, 64))])
    found = own.mean_maps(views, tables)[0]
    np.testing.assert_allclose(found, image[0, 0].float() / 255, atol=0.01)
    views[1].images.zero_()  # the enlarged view now sees nothing: 0.01 in the middle, and no word on the margin
    found, plain = own.mean_maps(views, tables)[0], image[0, 0].numpy() / 255
    np.testing.assert_allclose(found[8:-8, 8:-8], (plain[8:-8, 8:-8] + 0.01) / 2, atol=0.01)
    np.testing.assert_allclose(found[:5], plain[:5], atol=0.01)


def test_a_run_of_an_earlier_version_predicts_as_it_was_scored(tmp_path):
    """Without the enlarged view, which its record does not name."""
    config = resolve("smoke", {"recipe": "strong"}).model_dump()
    run = dict.fromkeys(record.NEEDED) | {"system": "unet", "config": config, "train_cases": 20,
                                          "plan": plan("unet", recipe="strong").record()}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert recipes.of_run(record.read(tmp_path)).zoom_average == 1.25
    del run["plan"]["zoom_average"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    earlier = recipes.of_run(record.read(tmp_path))
    assert earlier.zoom_average is None and earlier.flip_average


@pytest.mark.parametrize("x, y, w, h", [(20, 30, 12, 8), (44, 12, 6, 10), (32, 32, 20, 20), (32, 8, 30, 16),
                                        (60, 30, 8, 8)])
def test_the_prompt_of_an_enlarged_view_is_of_what_it_shows(x, y, w, h):
    """Size and location of a lesion, moved, and cut at the frame, as of the mask enlarged."""
    mask = torch.zeros(1, 64, 64)
    mask[0, y - h // 2:y + h // 2, x - w // 2:x + w // 2] = 1
    frame = 640, 320  # the mask is stretched
    small, large = (words.measure(some[0].numpy() > 0.5, frame) for some in (mask, zoomed(mask, 1.25)))
    found = words.zoomed(small, 1.25)
    assert found.box == pytest.approx(large.box, abs=12) and found.centre == pytest.approx(large.centre, abs=6)
    assert found.inside == pytest.approx(large.inside, abs=0.04)


def test_the_prompt_of_an_enlarged_view_that_does_not_show_the_lesion():
    corner = words.Finding((10, 10), (4.5, 4.5), (640, 320), (5 / 640, 5 / 320))  # up to 80 and 40 pixels are not shown
    assert words.zoomed(corner, 1.25) == words.Finding(None, None, (640, 320))
    assert words.zoomed(words.Finding(None, None, (640, 320)), 1.25).centre is None
    assert words.zoomed(words.Finding((600, 40), None, (640, 320)), 1.25).box == (640, 50)  # size without location


def test_each_view_has_the_prompt_of_what_it_shows():
    """90 pixels are small; enlarged by 1.25 they are 112.5, over the edge of 100. Mirrored, left is right."""
    cases = pd.DataFrame({"case_id": ["a"], "shape": ["oval"], "margin": ["circumscribed"], "birads": ["3"]})
    finding = words.Finding((90, 40), (200.0, 100.0), (640, 320), (200.5 / 640, 100.5 / 320))
    views = [View(None, None, mirrored, zoom) for zoom in (1.0, 1.25) for mirrored in (False, True)]
    tables = Predictor(System(), None, (100.0, 200.0), None).prompt_tables(views, cases, [finding])
    assert [table["global_text"].iloc[0] for table in tables] == [
        f"a {size} lesion in the upper {side} quadrant of the image"
        for size in ("small", "medium") for side in ("left", "right")]


def test_native_size_goes_in_and_the_common_size_comes_out():
    class Bright(System):
        def forward(self, image, image_features, prompts):
            assert image.shape[-2:] == (256, 256)
            return (image - 0.5) * 40

    settings = plan("anatosegnet", recipe="official")
    image = torch.zeros(2, 1, 352, 352, dtype=torch.uint8)
    image[..., 100:200, 60:300] = 255
    view, = predictor(Bright(), settings).views(image)
    maps = probability_maps(Bright(), view.images, None, Prompts(), settings, CPU)
    assert view.images.shape == (2, 1, 256, 256) and maps.shape == (2, 352, 352)
    truth = (image[0, 0] > 0).numpy()
    assert 2 * ((maps[0] > 0.5) & truth).sum() / ((maps[0] > 0.5).sum() + truth.sum()) > 0.98
    masks = at_native_size(image > 0, settings)
    assert masks.dtype == torch.bool and masks.float().mean() == pytest.approx(truth.mean(), rel=0.02)


# ---- mixed conditions -----------------------------------------------------------------------------------------


class Mixing(System):
    def mix_conditions(self, text, visual, has_partner, generator):
        return torch.where(has_partner[:, None], visual, text)


def test_pictures_come_from_images_with_the_same_words():
    embeddings = torch.arange(5.0)[:, None].expand(5, 3)
    given = Prompts(local_text=torch.full((4, 3), -1.0))
    mixed = MixedPrompts(lambda *_: given, Mixing(), ["a", "b", "a", "c", "a"], embeddings)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([mixed([0, 1, 2, 3], generator).local_text[:, 0] for _ in range(60)])
    assert set(drawn[:, 0].tolist()) == set(drawn[:, 2].tolist()) == {0.0, 2.0, 4.0}  # may be the image itself
    assert (drawn[:, [1, 3]] == -1).all()  # nobody shares these words
    assert mixed([0, 1, 2, 3], generator).global_text is None
    both = MixedPrompts(lambda *_: given._replace(global_text=torch.zeros(4, 3)), Mixing(), ["a"] * 5, embeddings)
    said = both([0, 1, 2, 3], generator)
    assert torch.equal(said.global_text, said.local_text)  # one picture per image and step


# ---- every official recipe, whole -----------------------------------------------------------------------------


@pytest.fixture
def source(phantom_root, outputs):
    return open_source("phantom", phantom_root, None, resolve("smoke"), "s")


def run(source, system, **overrides):
    return run_fold(system, 0, resolve("smoke", {"recipe": "official", "iterations": 2} | overrides), source,
                          study=f"s{len(overrides)}")


@pytest.mark.parametrize("system", WITH_OFFICIAL)
def test_official_smoke(source, system):
    path = run(source, system)
    facts, rows = record.read(path), pd.read_csv(path / "per_image.csv")
    assert facts["plan"] == recipes.of_run(facts).record() and facts["plan"]["recipe"] == "official"
    assert rows["dice"].between(0, 1).all()
    history = pd.read_csv(path / "history.csv")
    assert len(history) == 2 and ("learning_rate_kan" in history) == (system == "ukan")


def test_strong_smoke_repeats_exactly(source):
    first = run(source, "bussam", recipe="strong")
    second = run(source, "bussam", recipe="strong", iterations=2, amp=None)
    for file in ("history.csv", "per_image.csv"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_system_without_official_recipe_leaves_nothing_behind(source):
    with pytest.raises(StudyError, match="xbusnet has no official recipe"):
        run(source, "xbusnet")
    assert not list(record.folder("s0", "xbusnet", 0, 0).parent.glob("**/*"))


def test_bussam_trains_on_its_own_logits():
    system = BUSSAM("quick", "random", 64).eval()
    image, point = torch.rand(2, 1, 64, 64), Prompts(point=torch.full((2, 2), 0.5))
    features = system.encode_images(image)
    with torch.no_grad():
        low, full = system.training_logits(image, features, point), system(image, features, point)
    assert low.shape == (2, 1, 64, 64) and full.shape == (2, 1, 64, 64)  # 128-pixel frame: half of it
    large = torch.nn.functional.interpolate(low, size=(128, 128), mode="bilinear")
    torch.testing.assert_close(full, torch.nn.functional.interpolate(large, size=(64, 64), mode="bilinear"))
