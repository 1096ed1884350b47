"""The weights rule: pretrained refuses to go on without its files, partial records what a file covered."""

import pytest
import torch
from safetensors.torch import save_file

from xbuslib.config import resolve
from xbuslib.errors import StudyError
from xbuslib.models import encoders
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    return tmp_path


def test_pretrained_without_a_file_names_file_and_folder(folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StudyError, match=r"no weights for resnet50: .* has no file like resnet50-0676ba61.pth"):
        encoders.resnet("paper", "pretrained")


def test_whole_file_is_loaded_and_recorded(folder):
    source, _ = encoders.resnet("paper", "random")
    save_file(source.state_dict(), folder / "resnet50.safetensors")
    encoder, record = encoders.resnet("paper", "pretrained")
    assert record["weights"] == "pretrained" and record["tensors_missing"] == 0
    assert torch.equal(encoder.layer4[2].conv3.weight, source.layer4[2].conv3.weight)


def test_partial_file_needs_to_be_asked_for(folder):
    source, _ = encoders.resnet("paper", "random")
    part = {key: value for key, value in source.state_dict().items() if not key.startswith("layer4")}
    torch.save(part, folder / "resnet50-stem.pth")
    with pytest.raises(StudyError, match=r"lacks \d+ tensors of resnet50 \(first: layer4.0.conv1.weight\).*partial"):
        encoders.resnet("paper", "pretrained")
    encoder, record = encoders.resnet("paper", "partial")
    assert record["weights"] == "partial" and record["tensors_loaded"] == len(part)
    assert torch.equal(encoder.conv1.weight, source.conv1.weight)


@pytest.mark.parametrize("content, message", [
    (b"not a checkpoint", "cannot read weights"), (None, "wrong weights file"), ("other", "holds no tensor of")])
def test_faulty_files(folder, content, message):
    path = folder / "resnet50-x.pth"
    if content is None:
        torch.save({"conv1.weight": torch.zeros(3, 3)}, path)
    elif content == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=message):
        encoders.resnet("paper", "partial")


def test_clip_positions_are_resized_to_the_image(folder):
    """A file trained at 224 pixels (14×14 patches) loads into a model at 352 (22×22)."""
    trained = encoders.CLIP("paper", "random", 224)
    state = {key: value.clone() for key, value in trained.model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    clip = encoders.CLIP("paper", "pretrained", 352)
    assert clip.weights["weights"] == "pretrained"
    assert clip.model.visual.positional_embedding.shape == (22 * 22 + 1, 768)
    assert torch.equal(clip.model.visual.positional_embedding[0], trained.model.visual.positional_embedding[0])
    assert torch.equal(clip.model.visual.conv1.weight, trained.model.visual.conv1.weight)


@pytest.mark.parametrize("set_folder", [False, True])
def test_partial_weights_need_something_to_be_found(set_folder, tmp_path, monkeypatch, phantom_root, outputs):
    """Neither without a folder nor with one that holds no encoder's file does training begin from random numbers."""
    if set_folder:
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / "notes.txt").write_text("nothing here")
        monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path / "weights"))
    config = resolve("paper", {"image_size": 32, "iterations": 1, "weights": "partial"})
    source = open_source("phantom", phantom_root, None, config, "w")
    message = "holds no file of any encoder" if set_folder else "XBUS_WEIGHTS, which is not set"
    with pytest.raises(StudyError, match=message):
        run_fold("uresnet", 0, config, source, study="w")
    assert not list(outputs.glob("w/runs/*/*/*/run.json"))


def test_what_partial_weights_covered_is_said_before_training(folder, phantom_root, outputs, capsys):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, folder / "resnet50-part.pth")
    config = resolve("paper", {"image_size": 32, "iterations": 1, "weights": "partial"})
    source = open_source("phantom", phantom_root, None, config, "w")
    run_fold("uresnet", 0, config, source, study="w")
    said = capsys.readouterr().err
    assert "uresnet starts from resnet50: 1 of 265 tensors from resnet50-part.pth" in said
    assert said.index("starts from") < said.index("training")


def test_small_encoders_have_no_pretrained_weights():
    with pytest.raises(StudyError, match="no pretrained weights; say weights=random"):
        encoders.resnet("quick", "pretrained")


def test_resnet_stem_to_layer3_of_the_file_at_hand(monkeypatch):
    from tests.conftest import REAL_DATA

    weights = REAL_DATA.parent / "weights"
    if not weights.is_dir():
        pytest.skip("the partial ResNet-50 file is not beside this checkout")
    monkeypatch.setenv("XBUS_WEIGHTS", str(weights))
    _, record = encoders.resnet("paper", "partial")
    assert record["tensors_loaded"] == 258 and record["tensors_missing"] > 0


def test_a_file_trained_with_the_stride_on_the_first_convolution_gets_it_there(tmp_path, monkeypatch):
    """Against torchvision's ResNet-50 with its strides moved by hand, on the same random weights."""
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.resnet50().eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith(("layer4", "fc"))}
    torch.save(state, tmp_path / "resnet50-imagenet-conv1-to-layer3.pth")
    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    encoder, record = encoders.resnet("paper", "partial")
    for layer in (theirs.layer2, theirs.layer3):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.layer3(theirs.layer2(theirs.layer1(
            theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image)))))))
        found = encoders.stages(encoder.eval(), image)[3]
    assert torch.allclose(found, expected, atol=1e-5)
    assert record["weights"] == "partial" and "1×1" in record["stride"]


def test_the_stride_stays_where_torchvision_has_it_for_any_other_file(tmp_path, monkeypatch):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet50-other.pth")
    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    encoder, record = encoders.resnet("paper", "partial")
    assert encoder.layer2[0].conv2.stride == (2, 2) and "stride" not in record
