"""UNet and U-ResNet against the specification, and what every prompt-free system has to do."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xbuslib.errors import StudyError
from xbuslib.models import encoders
from xbuslib.models.anatosegnet import AnatoSegNet
from xbuslib.models.system import Prompts, count
from xbuslib.models.ukan import UKAN
from xbuslib.models.unet import UNet
from xbuslib.models.uresnet import UResNet

SYSTEMS = (UNet, UResNet, UKAN, AnatoSegNet)


@pytest.fixture(scope="module", params=SYSTEMS, ids=lambda system: system.__name__)
def system(request):
    torch.manual_seed(0)
    return request.param("quick", "random")


def logits(system, image):
    return system(image, None, Prompts())


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 64), (3, 64, 96), (2, 96, 32)])
def test_logits_have_the_shape_of_the_image(system, batch, height, width):
    with torch.no_grad():
        assert logits(system.train(), torch.rand(batch, 1, height, width)).shape == (batch, 1, height, width)


def test_every_parameter_gets_a_finite_gradient(system):
    system = copy.deepcopy(system).train()
    for module in system.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm starts residual branches at 0: no gradient
            nn.init.ones_(module.weight)
    logits(system, torch.rand(3, 1, 64, 64)).square().mean().backward()
    for name, parameter in system.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A bias right before batch normalisation has gradient zero by nature; a matrix never does.
        assert parameter.ndim == 1 or parameter.grad.abs().max() > 0, name


def test_logits_are_finite_and_close_to_float32_under_autocast(system):
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        exact = logits(system.eval(), image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = logits(system, image)
    assert rough.isfinite().all()
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max() + 0.05  # bfloat16 has 8 bits


def test_state_round_trips_through_safetensors(system, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(system.trainable_state(), file)
    torch.manual_seed(1)
    other = type(system)("quick", "random")
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        expected = logits(system.eval(), image)
        assert not torch.equal(logits(other.eval(), image), expected)
        other.load_state_dict(load_file(file))
        assert torch.equal(logits(other, image), expected)


def test_images_of_a_batch_do_not_mix_in_eval_mode(system):
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        alone, together = logits(system.eval(), image[:1]), logits(system, image)[:1]
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_prompt_free_systems_freeze_nothing(system):
    assert system.prompts == () and system.frozen == ()
    assert system.encode_images(torch.rand(1, 1, 32, 32)) is None
    assert count(system)[1] == 0


@pytest.mark.parametrize(("system", "parameters"), [(UNet, 31_037_633), (UResNet, 71_882_625)])
def test_parameter_counts_are_those_of_the_specification(system, parameters):
    with torch.device("meta"):  # counts need no memory
        assert count(system("paper", "random")) == (parameters, 0)


def test_unet_sees_five_resolutions():
    unet, sides = UNet("quick", "random").eval(), []
    for level in unet.encoder:
        level.register_forward_hook(lambda module, inputs, output: sides.append(tuple(output.shape[1:])))
    with torch.no_grad():
        logits(unet, torch.rand(1, 1, 64, 64))
    assert sides == [(16, 64, 64), (32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)]
    assert all(m.bias is None for m in unet.modules() if isinstance(m, nn.Conv2d) and m is not unet.head)


def test_stages_are_the_first_four_maps_of_the_timm_pyramid():
    encoder, _ = encoders.resnet("quick", "random")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        pyramid = encoder.eval()(image)
        found = encoders.stages(encoder, image)
        assert torch.equal(encoder.layer4(found[-1]), pyramid[-1])
    assert len(found) == 4 and all(torch.equal(a, b) for a, b in zip(found, pyramid, strict=False))


def test_weights_are_recorded_or_refused():
    assert UNet("quick", "pretrained").weights_record == []  # it has nothing to load
    assert UResNet("quick", "random").weights_record == [{"encoder": "resnet18", "weights": "random"}]
    with pytest.raises(StudyError, match="weights=random"):
        UResNet("quick", "pretrained")
