"""Numbers that are none stop training at their step, with the cases; scores do not depend on batches or threads."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xbuslib.config import resolve
from xbuslib.errors import StudyError
from xbuslib.models.system import Prompts, System
from xbuslib.runs.fold import begin, score, training_data
from xbuslib.runs.source import open_source
from xbuslib.training import finite, loop, recipes

CPU = torch.device("cpu")
NAMES = tuple("abcdefg")
WITHIN = 1e-4  # docs/reliability.md, "Numbers"


class Dot(System):
    """A 1×1 convolution whose input is poisoned where an image is all 255."""

    poison = None

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, image, image_features, prompts):
        return self.poison(image, self.conv(image))


def loss_is_nan(image, logits):
    """One image, and it alone, gives logits that are no number."""
    return torch.where(image.amin(dim=(1, 2, 3), keepdim=True) == 1, torch.nan, logits)


class RootOfZero(torch.autograd.Function):
    """Passes its input on; its gradient is infinite where the mark is set, as that of a square root is at 0."""

    @staticmethod
    def forward(context, x, mark):
        context.save_for_backward(mark)
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        mark, = context.saved_tensors
        return torch.where(mark, torch.inf, gradient), None


def gradient_is_infinite(image, logits):
    """The same image has a loss that is a number, and a gradient that is not."""
    return RootOfZero.apply(logits, image.amin(dim=(1, 2, 3), keepdim=True) == 1)


def fit(poison, checkpoint=None, device=CPU, **settings):
    """Train on 7 images in batches of 3, case e is the poisoned one; the system and what was raised."""
    images = torch.randint(0, 250, (7, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[4] = 255
    data = loop.TrainingData(images, images > 127, None, lambda *given: Prompts(), case_ids=NAMES)
    system = Dot()
    system.poison = poison
    plan = recipes.plan("dot", resolve("smoke", {"iterations": 6, "amp": False, "batch_size": 3} | settings), 7)
    return loop.fit(system, data, plan, seed=5, device=device, checkpoint=checkpoint)


def expected_batches():
    """The batches of seed 5 by the stream's own rule: passes over all positions, cut into threes."""
    generator = torch.Generator().manual_seed(5)
    order = [int(i) for _ in range(3) for i in torch.randperm(7, generator=generator)]
    return [order[k:k + 3] for k in range(0, 18, 3)]


@pytest.mark.parametrize(("poison", "what"), [(loss_is_nan, "the loss is nan"),
                                              (gradient_is_infinite, "a gradient has the norm (inf|nan)")])
def test_training_stops_at_the_step_and_names_the_cases(poison, what, tmp_path):
    batches = expected_batches()
    first = next(i for i, batch in enumerate(batches) if 4 in batch)
    names = ", ".join(NAMES[i] for i in batches[first])
    with pytest.raises(StudyError, match=rf"stopped at iteration {first + 1}: {what}.*that batch: {names}\."):
        fit(poison, tmp_path / "checkpoint.pt", checkpoint_every=1)
    saved = tmp_path / "checkpoint.pt"
    assert saved.is_file() == (first > 0)  # of the last good step, not of the broken one
    if first:
        state = torch.load(saved, weights_only=True)
        assert state["step"] == first and all(value.isfinite().all() for value in state["system"].values())


def test_without_the_poisoned_image_nothing_is_stopped():
    assert len(fit(lambda image, logits: logits)) == 6


def test_a_learning_rate_that_blows_up_is_stopped_before_the_end():
    with pytest.raises(StudyError, match=r"stopped at iteration [2-5]: .*smaller learning_rate"):
        fit(lambda image, logits: logits, learning_rate=1e38)


def test_on_a_gpu_a_step_is_judged_when_the_next_one_is_under_way_and_before_anything_is_saved():
    watch = finite.Watch(NAMES, SimpleNamespace(type="cuda"))  # the values themselves stay here on the CPU
    nothing = SimpleNamespace(param_groups=[])
    watch.add(1, [0, 1], torch.tensor(0.5), nothing)
    watch.add(2, [2, 3], torch.tensor(float("inf")), nothing)  # not read yet
    with pytest.raises(StudyError, match=r"iteration 2: the loss is inf.*batch: c, d\."):
        watch.add(3, [4, 5], torch.tensor(0.5), nothing)
    watch = finite.Watch(NAMES, SimpleNamespace(type="cuda"))
    watch.add(1, [0, 1], torch.tensor(float("nan")), nothing)
    with pytest.raises(StudyError, match="iteration 1"):
        watch.check()


def test_on_a_gpu_the_last_step_is_judged_too_and_no_broken_step_is_saved(monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "Watch", lambda names, device: finite.Watch(names, SimpleNamespace(type="cuda")))
    first = next(i for i, batch in enumerate(expected_batches()) if 4 in batch)
    with pytest.raises(StudyError, match=f"stopped at iteration {first + 1}: the loss is nan"):
        fit(loss_is_nan, iterations=first + 1)
    with pytest.raises(StudyError, match=f"stopped at iteration {first + 1}: the loss is nan"):
        fit(loss_is_nan, tmp_path / "checkpoint.pt", checkpoint_every=1)
    saved = tmp_path / "checkpoint.pt"
    assert (torch.load(saved, weights_only=True)["step"] if saved.is_file() else 0) == first


@pytest.fixture(scope="module")
def started(phantom_root, tmp_path_factory):
    """XBusNet and the text-free U-Net at their start, with the phantom's fold 0, so that no test trains anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(tmp_path_factory.mktemp("numerics")))
        found = {}
        for system in ("xbusnet", "unet"):
            config = resolve("smoke", ["amp=false", "prediction_batch=8"])
            source = open_source("phantom", phantom_root, None, config, "n")
            found[system] = source, begin(system, 0, config, source, study="n")
        return found


def scores(started, system, batch, threads):
    """per_image table of the untrained system under another prediction_batch and number of threads."""
    source, start = started[system]
    config = start.predictor.plan.config.model_copy(update={"prediction_batch": batch})
    plan = recipes.plan(system, config, len(start.train_cases))
    predictor = type(start.predictor)(start.predictor.system, plan, start.predictor.edges, start.predictor.texts)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        table, maps = score(predictor, start.val_cases.head(3), source.prepared)
    finally:
        torch.set_num_threads(before)
    return table, maps


@pytest.mark.parametrize("system", ["xbusnet", "unet"])
def test_scores_do_not_depend_on_the_prediction_batch_or_the_threads(started, system):
    reference, maps = scores(started, system, 1, 1)
    numbers = reference.select_dtypes("number").columns
    assert len(reference) >= 3 and maps.std() > 0
    for batch, threads in ((2, 1), (8, 2)):
        table, other = scores(started, system, batch, threads)
        assert np.abs(maps - other).max() < WITHIN
        pd.testing.assert_frame_equal(table.drop(columns=numbers), reference.drop(columns=numbers))
        np.testing.assert_allclose(table[numbers].to_numpy(float), reference[numbers].to_numpy(float), rtol=0,
                                   atol=WITHIN)


def test_a_fold_hands_its_case_names_to_the_training(started):
    source, start = started["unet"]
    data = training_data(start.predictor, start.train_cases, source.prepared)
    assert list(data.case_ids) == list(start.train_cases["case_id"]) and len(data.case_ids) == len(data.images)
