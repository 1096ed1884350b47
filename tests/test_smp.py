"""Models of segmentation_models_pytorch as systems: the library's own numbers, our rule for weights, a run."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.test_cli import refused
from xbuslib.config import resolve
from xbuslib.errors import StudyError
from xbuslib.models import registry
from xbuslib.models.system import Prompts
from xbuslib.runs.trained import Trained
from xbuslib.workflow.request import request

library = pytest.importorskip("segmentation_models_pytorch")
NAME = "smp-Unet-resnet18"


def test_names_are_the_librarys_and_fit_a_folder():
    found = request({"systems": "smp:unet:resnet18,xbusnet,smp:Segformer:mit_b0"}).systems
    assert found == [NAME, "xbusnet", "smp-Segformer-mit_b0"]
    assert registry.entry(NAME).paper == "Unet (resnet18)"
    assert registry.checked(NAME) == NAME and registry.checked("smp:FPN:tu-resnet18") == "smp-FPN-tu-resnet18"


@pytest.mark.parametrize("name, message", [
    ("smp:Unett:resnet18", "did you mean 'Unet'"), ("smp:Unet:resnet19", "did you mean 'resnet18'"),
    ("smp:Unet", "not of the form smp:ARCHITECTURE:ENCODER"), ("smp:Unet:tu-nothing", "unknown encoder"),
    ("unett", "did you mean 'unet'"),
])
def test_unknown_names_are_refused_before_anything_runs(name, message):
    with pytest.raises(StudyError) as error:
        request({"systems": name})
    assert message in str(error.value)


def test_logits_are_the_librarys_own_on_normalised_images():
    torch.manual_seed(3)
    ours = registry.build(NAME, resolve("smoke")).eval()
    theirs = library.Unet("resnet18", encoder_weights=None, classes=1).eval()
    theirs.load_state_dict(ours.model.state_dict())
    image = torch.rand(2, 1, 64, 64)
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    three = (image - mean.view(1, 3, 1, 1)) / sd.view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(ours(image, None, Prompts()), theirs(three), atol=1e-6)
    assert ours.prompts == () and all(parameter.requires_grad for parameter in ours.parameters())


def test_the_seed_alone_decides_random_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(registry.build(NAME, resolve("smoke")).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_an_image_too_small_for_an_architecture_is_refused():
    with pytest.raises(StudyError, match="PAN with resnet18 cannot take images of 64×64 pixels"):
        registry.build("smp-PAN-resnet18", resolve("smoke"))


def test_weights_come_from_the_folder_and_are_recorded(tmp_path, monkeypatch):
    torch.manual_seed(9)
    state = library.encoders.get_encoder("resnet18", weights=None).state_dict()
    save_file({**state, "fc.weight": torch.zeros(1)}, tmp_path / "smp-resnet18.safetensors")
    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    system = registry.build(NAME, resolve("smoke", ["weights=pretrained"]))
    assert torch.equal(system.model.encoder.conv1.weight, state["conv1.weight"])
    record, = system.weights_record
    assert (record["encoder"], record["weights"], record["tensors_missing"]) == ("smp-resnet18", "pretrained", 0)
    again = registry.build(NAME, resolve("smoke"), system.weights_record)
    assert again.weights_record == system.weights_record


def test_missing_weights_are_refused_with_the_file_to_put_there(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*_):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    with pytest.raises(StudyError, match=r"smp-resnet18\.safetensors, and smp-hub/resnet18\.imagenet could not"):
        registry.build(NAME, resolve("smoke", ["weights=pretrained"]))


def test_weights_of_another_encoder_do_not_fit(tmp_path, monkeypatch):
    state = library.encoders.get_encoder("mobileone_s0", weights=None).state_dict()
    save_file(dict(state), tmp_path / "smp-resnet18.safetensors")
    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    with pytest.raises(StudyError, match="lacks"):
        registry.build(NAME, resolve("smoke", ["weights=pretrained"]))


def test_without_the_library_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(StudyError, match=r"pip install -c constraints\.txt -e '\.\[smp\]'"):
        registry.checked("smp:Unet:resnet18")


def test_a_fold_is_trained_scored_and_read_back(phantom_root, outputs, run_command):
    done = run_command("fold", "--system", "smp:unet:resnet18", "--profile", "smoke", "--set", "iterations=2", "--set",
                       "folds=2", "--data", phantom_root, "--study", "s")
    assert done.returncode == 0, done.stderr
    folder = outputs / "s" / "runs" / NAME / "fold_0" / "seed_0"
    run = json.loads((folder / "run.json").read_text())
    assert run["switches"] == {"architecture": "Unet", "encoder": "resnet18"} and run["frozen"] == 0
    trained = Trained.load(folder)
    assert isinstance(trained.predictor.system.model, library.Unet)
    with np.load(folder / "probabilities.npz") as stored:
        assert stored["probabilities"].std() > 0
    refused(run_command("fold", "--system", "smp:Unet:resnet18", "--profile", "smoke", "--set", "recipe=official",
                        "--data", phantom_root), "smp-Unet-resnet18 has no official recipe")
