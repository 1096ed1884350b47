"""Difference attention against plain loops and the figures of the specification; the two-class head."""

import math

import pytest
import torch
import torch.nn.functional as F

from xbuslib.models.anatosegnet import AnatoSegNet, DifferenceAttention, differences, distance_bias
from xbuslib.models.system import Prompts, count


def by_loops(attention, features, beta=0.0):
    """Spec 4.3 for one image (C, h, w), one head, query and key at a time, with proper differences."""
    channels, height, width = features.shape
    size = channels // attention.heads
    tokens, across, down = [], [], []
    for row in range(height):
        for column in range(width):
            here = features[:, row, column]
            tokens.append(here)
            right, below = min(column + 1, width - 1), min(row + 1, height - 1)  # the last: itself, so 0
            across.append(features[:, row, right] - here)
            down.append(features[:, below, column] - here)
    weight = attention.qkv.weight
    q_weight, k_weight, v_weight = weight[:channels], weight[channels : 2 * channels], weight[2 * channels :]
    outputs = []
    for i in range(len(tokens)):
        heads = []
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            scores = []
            for j in range(len(tokens)):
                score = sum((q_weight @ kind[i])[part] @ (k_weight @ kind[j])[part]
                            for kind in (tokens, across, down))
                scores.append(score / math.sqrt(size) + beta - abs(i - j))
            weights = torch.stack(scores).softmax(0)
            heads.append(sum(w * (v_weight @ tokens[j])[part] for j, w in enumerate(weights)))
        outputs.append(attention.project(torch.cat(heads)))
    return torch.stack(outputs, dim=1).reshape(features.shape)  # (C, N) to (C, h, w)


@pytest.mark.parametrize("beta", [0.0, 2.0, 3.5])
def test_attention_equals_plain_loops_whatever_beta(beta):
    torch.manual_seed(0)
    attention, features = DifferenceAttention(8, heads=2), 2 * torch.randn(2, 8, 3, 4)
    with torch.no_grad():
        found = attention(features)
        for image, output in zip(features, found, strict=True):
            torch.testing.assert_close(output, by_loops(attention, image, beta), rtol=1e-4, atol=1e-5)


def test_bias_alone_is_nearly_local():
    weights = distance_bias(484).softmax(-1)[242]  # one of the 22 × 22 tokens of a 352-pixel image
    assert weights[242].item() == pytest.approx(0.46, abs=0.005)  # spec 4.3
    assert weights[239:246].sum().item() == pytest.approx(0.97, abs=0.005)


def test_bias_falls_by_one_per_token():
    assert distance_bias(3).tolist() == [[0, -1, -2], [-1, 0, -1], [-2, -1, 0]]


def test_differences_on_a_small_map():
    across, down = differences(torch.tensor([[[[1.0, 4.0, 9.0], [2.0, 2.0, 7.0]]]]))
    assert across[0, 0].tolist() == [[3, 5, 0], [0, 5, 0]]
    assert down[0, 0].tolist() == [[1, -2, -2], [0, 0, 0]]


def test_scrambled_reads_tokens_as_a_map():
    torch.manual_seed(0)
    proper, scrambled = DifferenceAttention(8, heads=2), DifferenceAttention(8, heads=2, scrambled=True)
    scrambled.load_state_dict(proper.state_dict())
    # One channel value everywhere: proper differences are zero, so proper attention sees a flat map.
    flat = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 4, 4)
    seen = {}

    def keep(name):
        return lambda q, k, v, **rest: seen.update({name: q}) or v

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for name, attention in {"proper": proper, "scrambled": scrambled}.items():
            patch.setattr(F, "scaled_dot_product_attention", keep(name))
            attention(flat)
    assert not seen["proper"][..., 4:].any()  # q_h and q_v, each 4 wide
    assert seen["scrambled"][..., 4:].any()  # channels 0 … 7 lie along its rows
    torch.testing.assert_close(seen["proper"][..., :4], seen["scrambled"][..., :4])


def test_scrambled_differences_are_those_of_the_release():
    torch.manual_seed(0)
    attention, features = DifferenceAttention(4, heads=1, scrambled=True), torch.randn(1, 4, 2, 2)
    flat = features[0].reshape(4, 4).T.reshape(-1)  # token after token
    across = torch.zeros(4, 4)  # (N, C)
    for n in range(4):  # what its code calls channel c and place n is element 4c + n of the flat tokens
        for c in range(4):
            across[n, c] = flat[4 * c + n + 1] - flat[4 * c + n] if n % 2 == 0 else 0.0
    taken = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        linear = F.linear
        patch.setattr(F, "linear", lambda x, *rest: taken.append(x) or linear(x, *rest))
        attention(features)
    assert any(x.shape == (1, 4, 4) and torch.equal(x[0], across) for x in taken)


def test_parameter_count_is_that_of_the_specification():
    with torch.device("meta"):  # counts need no memory
        system = AnatoSegNet("paper", "random")
    assert count(system) == (92_857_282, 0)
    assert count(system.refine4)[0] == pytest.approx(4.20e6, abs=5e3)
    assert count(system.refine5)[0] == pytest.approx(16.78e6, abs=5e3)


def test_logit_is_two_class_softmax_and_its_loss_is_cross_entropy():
    torch.manual_seed(0)
    system, image = AnatoSegNet("quick", "random").eval(), torch.rand(2, 1, 64, 64)
    target = (torch.rand(2, 64, 64) < 0.3).long()
    with torch.no_grad():
        scores, logit = system.scores(image), system(image, None, Prompts())
    torch.testing.assert_close(logit.sigmoid(), scores.softmax(1)[:, 1:])
    assert torch.equal(logit[:, 0] > 0, scores.argmax(1) == 1)
    torch.testing.assert_close(F.binary_cross_entropy_with_logits(logit[:, 0], target.float()),
                               F.cross_entropy(scores, target))


def test_input_is_scaled_to_plus_minus_one():
    normalise = AnatoSegNet("quick", "random").normalise
    ends = normalise(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1))
    assert ends[:, :, 0, 0].tolist() == [[-1] * 3, [0] * 3, [1] * 3]


def test_attention_replaces_skip_and_center():
    system = AnatoSegNet("quick", "random").eval()
    with torch.no_grad():
        for place in (system.refine4, system.refine5):
            place.project.weight.zero_()
            place.project.bias.zero_()  # no residual: both maps are then zero whatever the image
        seen = []
        system.up4.register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
        system(torch.rand(1, 1, 64, 64), None, Prompts())
    center, skip = seen
    assert center.shape == (1, 512, 2, 2) and skip.shape == (1, 256, 4, 4)
    assert not center.any() and not skip.any()
