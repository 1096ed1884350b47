"""Training as the optimiser saw it: rates, updates, averaged weights and batches of `loop.fit`.

The right sides are the formulas of specification 3.5, 4.5, 5.6, 6.7, 7.8 and 9.2 and of docs/protocol.md ("Training"),
written a second time. A network of a few numbers is trained, so that thousands of steps cost little.
"""

import math
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from oracles.tiny import Convolved, Normalised, Pixelwise, data_of, plan_of, train

# ---- learning rates ---------------------------------------------------------------------------------------------


def annealed(share, top, floor):
    return floor + (top - floor) * 0.5 * (1 + math.cos(math.pi * share))


def uniform_rate(t):  # Section 2.3; docs/protocol.md: cosine to 1e-6 over the run
    return {"other": annealed(t / 1000, 1e-4, 1e-6)}


def ukan_rate(t):  # 3.5: per epoch, of 25 batches of 8 from 201; 400 epochs; one floor for both groups
    epoch = t // 25
    return {"kan": annealed(epoch / 400, 1e-2, 1e-5), "other": annealed(epoch / 400, 1e-4, 1e-5)}


def anatosegnet_rate(t):  # 4.5: × 0.1 every 20 epochs, of 13 batches of 16 from 201, the last one incomplete
    return {"other": 1e-4 * [1, 0.1, 0.01][t // 13 // 20]}


def bussam_rate(t):  # 5.6: 250 iterations of warming up, then a power of 0.9 over 100 epochs of 26 batches
    return {"other": 5e-4 * (t + 1) / 250 if t < 250 else 5e-4 * (1 - (t - 250) / 2600) ** 0.9}


def slow_rate(t):  # 6.7, 7.8: cosine over 20 000 iterations, however long the run
    return {"other": annealed(t / 20_000, 1e-4, 1e-6)}


RECIPES = [  # system, recipe, formula, iterations of the recipe
    ("xbusnet", "uniform", uniform_rate, 1000), ("unet", "strong", uniform_rate, 1000),
    ("ukan", "official", ukan_rate, 10_000), ("anatosegnet", "official", anatosegnet_rate, 650),
    ("bussam", "official", bussam_rate, 2600), ("cliptnseg", "official", slow_rate, 20_000),
    ("xbusnet-released", "official", slow_rate, 1000),
]


@pytest.mark.parametrize(("system", "recipe", "formula", "iterations"), RECIPES)
def test_the_optimiser_sees_the_rates_of_the_formula(system, recipe, formula, iterations):
    whole = plan_of(system, recipe)
    assert whole.iterations == iterations
    plan = whole if iterations <= 2600 else plan_of(system, recipe, iterations=600)  # cut off, not squeezed
    history, _, seen, _ = train(Pixelwise(), plan)
    wanted = [formula(t) for t in range(plan.iterations)]
    assert len(seen) == len(wanted) == len(history)
    for group in wanted[0]:
        column = "learning_rate" if group == "other" else f"learning_rate_{group}"
        rates = [rates[group] for rates in wanted]
        assert np.allclose([rates[group] for rates in seen], rates, rtol=1e-9, atol=0)
        assert np.allclose(history[column], rates, rtol=1e-9, atol=0)
        assert [whole.rate(t, group) for t in range(0, iterations, 7)] == pytest.approx(
            [formula(t)[group] for t in range(0, iterations, 7)], rel=1e-9)
    assert all(rates.keys() == wanted[0].keys() for rates in seen)
    assert len({rates["other"] for rates in seen}) > 2, "the rate must change"


def test_every_system_has_the_same_uniform_and_strong_rates():
    from xbuslib.models import registry

    for recipe in ("uniform", "strong"):
        for name in registry.names():
            plan = plan_of(name, recipe)
            assert plan.rates == {"other": 1e-4} and plan.optimiser == "adamw" and plan.weight_decay == 0.01
            assert (plan.iterations, plan.batch_size, plan.last_batch, plan.shuffle) == (1000, 4, "continued", True)
            assert [plan.rate(t) for t in (0, 500, 999)] == pytest.approx(
                [uniform_rate(t)["other"] for t in (0, 500, 999)], rel=1e-9)


@pytest.mark.parametrize(("system", "optimiser", "decay", "batch", "last", "shuffle"), [
    ("ukan", "adam", 1e-4, 8, "dropped", True), ("anatosegnet", "adam", 1e-4, 16, "kept", True),
    ("bussam", "adamw", 0.1, 8, "kept", True), ("cliptnseg", "adamw", 0.01, 16, "kept", False),
    ("xbusnet-released", "adamw", 0.01, 4, "kept", True)])
def test_official_optimisers_and_batches(system, optimiser, decay, batch, last, shuffle):
    plan = plan_of(system, "official")
    assert (plan.optimiser, plan.weight_decay, plan.batch_size) == (optimiser, decay, batch)
    assert (plan.last_batch, plan.shuffle) == (last, shuffle)


# ---- updates ----------------------------------------------------------------------------------------------------


def dice_of(logits, masks):
    """1 − mean over images of (2I + 1)/(P + G + 1), docs/protocol.md."""
    p, g = torch.sigmoid(logits).flatten(1), masks.flatten(1)
    return (1 - (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)).mean()


def convolved(w, image):
    hidden = torch.tanh(F.conv2d(image, w["first.weight"], w["first.bias"], padding=1))
    return F.conv2d(hidden, w["second.weight"], w["second.bias"], padding=1)


@pytest.mark.parametrize("optimiser", ["adamw", "adam"])
def test_three_updates_by_hand(optimiser):
    """AdamW shrinks the weights apart from the gradient's step (decoupled); Adam adds the decay to the gradient."""
    plan = replace(plan_of("xbusnet", "uniform", n=9, iterations=3, learning_rate=0.05, weight_decay=0.5),
                   optimiser=optimiser)
    torch.manual_seed(6)
    system = Convolved()
    w = {key: value.detach().double().clone() for key, value in system.named_parameters()}
    m, v = ({key: torch.zeros_like(value) for key, value in w.items()} for _ in range(2))
    history, batches, _, states = train(system, plan, n=9, seed=3)
    data = data_of(9)
    for t in range(3):
        w = {key: value.detach().requires_grad_() for key, value in w.items()}
        loss = dice_of(convolved(w, data.images[batches[t]].double() / 255), data.masks[batches[t]].double())
        assert history["loss"][t] == pytest.approx(loss.item(), abs=1e-6)
        gradients = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
        rate = annealed(t / 3, 0.05, 1e-6)
        for key, g in gradients.items():
            old = w[key].detach()
            if optimiser == "adam":
                g = g + 0.5 * old
            else:
                old = old - rate * 0.5 * old
            m[key], v[key] = 0.9 * m[key] + 0.1 * g, 0.999 * v[key] + 0.001 * g**2
            step = (m[key] / (1 - 0.9 ** (t + 1))) / ((v[key] / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
            w[key] = old - rate * step
            assert torch.allclose(states[t][key].double(), w[key], atol=1e-5, rtol=0), (t, key)
    last = system.state_dict()
    assert all(torch.equal(last[key], states[-1][key]) for key in w), "without an average the last weights stay"


# ---- averaged weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.99, 0.3])
def test_the_averaged_weights_by_hand(decay):
    """At step t the average keeps min(decay, (1 + t)/(10 + t)); batch normalisation's statistics are averaged too."""
    plan = plan_of("xbusnet", "strong", n=12, iterations=9, learning_rate=0.1)
    assert plan.ema_decay == 0.99 and plan_of("xbusnet", "uniform").ema_decay is None
    system = Normalised()
    average = {key: value.double().clone() for key, value in system.state_dict().items()}
    *_, states = train(system, replace(plan, ema_decay=decay), n=12)
    for t, state in enumerate(states):
        kept = min(decay, (1 + t) / (10 + t))
        average = {key: kept * average[key] + (1 - kept) * state[key].double() for key in average}
    end = system.state_dict()
    for key in ("mix.weight", "mix.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        assert torch.allclose(end[key].double(), average[key], atol=1e-5, rtol=0), key
        assert not torch.allclose(end[key], states[-1][key], atol=1e-4), f"{key} is the last, not the average"
    assert end["norm.num_batches_tracked"].item() == 9


# ---- batches ----------------------------------------------------------------------------------------------------


def passes(last_batch, shuffle=True, seed=0, n=10, steps=15):
    plan = replace(plan_of("unet", "uniform", n=n, iterations=steps), last_batch=last_batch, shuffle=shuffle)
    return train(Pixelwise(), plan, n=n, seed=seed)[1]


def test_continued_passes_fill_every_batch():
    batches = passes("continued")
    stream = list(chain(*batches))
    assert [len(batch) for batch in batches] == [4] * 15
    rounds = [stream[start:start + 10] for start in range(0, 60, 10)]
    assert all(sorted(one) == list(range(10)) for one in rounds)
    assert len(set(map(tuple, rounds))) == 6, "each pass is shuffled anew"


def test_kept_last_batches_are_short():
    batches = passes("kept")
    assert [len(batch) for batch in batches] == [4, 4, 2] * 5
    assert all(sorted(chain(*batches[start:start + 3])) == list(range(10)) for start in range(0, 15, 3))


def test_dropped_last_batches_change_from_pass_to_pass():
    batches = passes("dropped", steps=40)
    assert [len(batch) for batch in batches] == [4] * 40
    rounds = [list(chain(*batches[start:start + 2])) for start in range(0, 40, 2)]
    assert all(len(set(one)) == 8 for one in rounds)
    assert set().union(*rounds) == set(range(10)), "no image is left out for good"


def test_unshuffled_passes_and_the_seed():
    in_order = passes("kept", shuffle=False, steps=6)
    assert in_order == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2
    assert passes("continued", seed=1) == passes("continued", seed=1) != passes("continued", seed=2)
