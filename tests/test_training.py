"""Training: resuming to the same result, learning at all. Losses, schedules and recipes have their own tests."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from xbuslib.config import resolve
from xbuslib.errors import StudyError
from xbuslib.models.system import Prompts, System
from xbuslib.training import loop, recipes
from xbuslib.training.loop import TrainingData

CPU = torch.device("cpu")


class Dot(System):
    """A 1×1 convolution with dropout: the smallest system, to watch the loop itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(1, 1, 1), nn.Dropout(0.2)

    def forward(self, image, image_features, prompts):
        return self.conv(self.drop(image))


def data(n=7):
    images = torch.randint(0, 255, (n, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TrainingData(images, images > 127, None, lambda batch, generator: Prompts())


def fit(iterations, checkpoint=None, until=None, monkeypatch=None, **overrides):
    torch.manual_seed(3)
    system = Dot()
    plan = recipes.plan("dot", resolve("smoke", {"iterations": iterations, "amp": False} | overrides), 7)
    if until is not None:  # a kill after `until` steps
        step, done = loop.train_step, []

        def stop(*given):
            if len(done) == until:
                raise KeyboardInterrupt
            done.append(1)
            return step(*given)

        monkeypatch.setattr(loop, "train_step", stop)
    history = loop.fit(system, data(), plan, seed=5, device=CPU, checkpoint=checkpoint)
    return system, history


def test_the_optimiser_steps_channels_last_weights_as_it_does_others():
    """Gradients go to the weights they belong to; torch's plain AdamW on the usual layout is the measure."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, (3, 2)), nn.Flatten(), nn.LazyLinear(1))
    x = torch.randn(2, 3, 8, 8)
    ours(x)
    theirs = copy.deepcopy(ours)
    ours.to(memory_format=torch.channels_last)
    plan = recipes.plan("dot", resolve("smoke", ["learning_rate=0.1"]), 7)
    optimiser = loop.make_optimiser(ours, plan)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=plan.weight_decay, fused=False)
    for _ in range(3):
        for network, steps in ((ours, optimiser), (theirs, plain)):
            steps.zero_grad(set_to_none=True)
            network(x).square().sum().backward()
            steps.step()
    assert not ours[0].weight.is_contiguous()  # there was something to get wrong
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_every_image_once_per_epoch():
    queue, generator = [], torch.Generator().manual_seed(0)
    drawn = [i for _ in range(7) for i in loop.next_batch(queue, 7, 4, generator)]
    assert len(drawn) == 28 and queue == []
    assert all(sorted(drawn[k:k + 7]) == list(range(7)) for k in range(0, 28, 7))


def test_killed_and_resumed_gives_the_same_result(tmp_path, monkeypatch):
    whole, history = fit(10)
    checkpoint = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        fit(10, checkpoint, until=7, monkeypatch=patch)  # checkpoints at 3 and 6
    assert torch.load(checkpoint, weights_only=True)["step"] == 6
    resumed, again = fit(10, checkpoint)
    assert again.equals(history)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_killed_run_goes_on_on_another_device_than_the_one_it_is_saved_from(tmp_path):
    """Losses of a checkpoint are read to the CPU, further ones arise where the system is: here on torch's meta device,
    which stands in for a GPU. Both are stacked at the next checkpoint and at the end."""
    checkpoint = tmp_path / "checkpoint.pt"
    fit(10, checkpoint)
    elsewhere, no_optimiser = Dot().to("meta"), SimpleNamespace(load_state_dict=lambda state: None)
    state = loop.load_checkpoint(checkpoint, elsewhere, no_optimiser, torch.Generator())
    new = elsewhere(torch.zeros(1, 1, 4, 4, device="meta"), None, Prompts()).mean()
    assert torch.stack([*state["history"], new]).shape == (state["step"] + 1,)


def test_damaged_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(b"half a file")
    with pytest.raises(StudyError, match=r"checkpoint .*checkpoint.pt is damaged.*delete it"):
        fit(4, checkpoint)
    assert checkpoint.read_bytes() == b"half a file"


def test_it_learns():
    _, history = fit(150, learning_rate=0.1)
    assert history["loss"].tail(10).mean() < history["loss"].head(10).mean() - 0.1
    assert np.isfinite(history["loss"]).all() and len(history) == 150
