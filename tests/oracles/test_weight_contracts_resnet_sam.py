"""ResNet-50 as torchvision and timm save it, SAM ViT-B as Meta and the hub do, both at full size: each file loads
whole, gives the maps that the publisher's library gives, and the network of a run is built again from its record
(specification 0.4, 2, 5.3, 5.4). The numbers are random.
"""

import gc
import json
import re

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from transformers import SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder

from oracles.full_size import build, close, empty_folder, frozen, grey, stirred
from xbuslib.config import resolve
from xbuslib.errors import StudyError
from xbuslib.models import registry
from xbuslib.models.system import Prompts

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as published


@pytest.fixture
def folder(tmp_path, monkeypatch):
    yield from empty_folder(tmp_path, monkeypatch)


# ---- ResNet-50 --------------------------------------------------------------------------------------------------

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def resnet_maps(model, image):
    """The maps of the four stages of a ResNet inside `model`, which is given `image`."""
    maps, encoder = {}, getattr(model, "encoder", model)
    handles = [getattr(encoder, layer).register_forward_hook(
        lambda module, inputs, output, layer=layer: maps.update({layer: output})) for layer in LAYERS]
    with torch.no_grad():
        model(image, None, Prompts()) if encoder is not model else model(image)
    for handle in handles:
        handle.remove()
    return [maps[layer] for layer in LAYERS]


@pytest.mark.parametrize("publisher", ["torchvision", "timm"])
def test_resnet_50_of_either_library(folder, publisher):
    if publisher == "torchvision":  # its oldest files have no counters of batches
        theirs = stirred(torchvision.models.resnet50())
        torch.save({key: value for key, value in theirs.state_dict().items() if "num_batches" not in key},
                   folder / "resnet50-0676ba61.pth")
    else:
        theirs = stirred(timm.create_model("resnet50"))
        save_file(theirs.state_dict(), folder / "resnet50.tv_in1k.safetensors")
    image, normalised = grey(IMAGENET_MEAN, IMAGENET_STD, 96)
    wanted = resnet_maps(theirs, normalised)
    del theirs
    system = build("uresnet")
    record = system.weights_record[0]
    assert (record["weights"], record["tensors_missing"]) == ("pretrained", 0)
    for found, one in zip(resnet_maps(system, image), wanted, strict=True):
        close(found, one)


@pytest.mark.parametrize(("then", "now"), [("resnet50-imagenet-conv1-to-layer3.pth", "resnet50-0676ba61.pth"),
                                           ("resnet50-stem.pth", "resnet50-imagenet-conv1-to-layer3.pth"),
                                           ("resnet50-imagenet-conv1-to-layer3.pth", None)])
def test_a_runs_resnet_keeps_the_stride_of_its_record(folder, then, now):
    """Whatever file lies in the folder now, or none: the network and its probabilities are those of the run."""
    state = stirred(timm.create_model("resnet50", features_only=True)).state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("layer4")}, folder / then)
    torch.manual_seed(1)
    config = resolve("paper", {"weights": "partial"})
    system = registry.build("uresnet", config).eval()
    image, _ = grey(IMAGENET_MEAN, IMAGENET_STD, 64)
    with torch.no_grad():
        before = system(image, None, Prompts())
    trained, records = system.trainable_state(), json.loads(json.dumps(system.weights_record))
    del system
    (folder / then).unlink()
    if now:
        torch.save(state, folder / now)
    again = registry.build("uresnet", config, recorded=records).eval()
    again.load_state_dict(trained)
    with torch.no_grad():
        assert torch.allclose(again(image, None, Prompts()), before, atol=1e-5)
    assert again.weights_record == records


# ---- SAM --------------------------------------------------------------------------------------------------------

_MLP = r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head))"
METAS_NAMES = [  # transformers' names of SAM's tensors, and those of Meta's sam_vit_b_01ec64.pth
    (r"^vision_encoder\.patch_embed\.projection", "image_encoder.patch_embed.proj"),
    (r"^vision_encoder\.neck\.conv1", "image_encoder.neck.0"),
    (r"^vision_encoder\.neck\.conv2", "image_encoder.neck.2"),
    (r"^vision_encoder\.neck\.layer_norm1", "image_encoder.neck.1"),
    (r"^vision_encoder\.neck\.layer_norm2", "image_encoder.neck.3"),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers", "image_encoder.blocks"), (r"^vision_encoder", "image_encoder"),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding",
     "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed", "prompt_encoder.point_embeddings"),
    (r"^prompt_encoder\.not_a_point_embeddings", "prompt_encoder.not_a_point_embed"),
    (r"^prompt_encoder\.mask_embed\.conv1", "prompt_encoder.mask_downscaling.0"),
    (r"^prompt_encoder\.mask_embed\.layer_norm1", "prompt_encoder.mask_downscaling.1"),
    (r"^prompt_encoder\.mask_embed\.conv2", "prompt_encoder.mask_downscaling.3"),
    (r"^prompt_encoder\.mask_embed\.layer_norm2", "prompt_encoder.mask_downscaling.4"),
    (r"^prompt_encoder\.mask_embed\.conv3", "prompt_encoder.mask_downscaling.6"),
    (r"^mask_decoder\.upscale_conv1", "mask_decoder.output_upscaling.0"),
    (r"^mask_decoder\.upscale_layer_norm", "mask_decoder.output_upscaling.1"),
    (r"^mask_decoder\.upscale_conv2", "mask_decoder.output_upscaling.3"),
    (rf"^{_MLP}\.layers\.0", r"\1.layers.1"),  # three layers: transformers counts the middle ones only
    (rf"^{_MLP}\.proj_in", r"\1.layers.0"), (rf"^{_MLP}\.proj_out", r"\1.layers.2"),
    (r"^(mask_decoder\.transformer\.layers\.\d)\.layer_norm", r"\1.norm"),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn", "mask_decoder.transformer.norm_final_attn"),
]


def as_meta_saves(state):
    renamed = {}
    for key, value in state.items():
        if key.startswith("shared_image_embedding"):  # the same tensor as the prompt encoder's
            continue
        for pattern, replacement in METAS_NAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value.clone()
    return renamed


def sam_answers(model, image, index):
    """transformers' SAM on 256 pixels as 5.3 and 5.4 have it, without adapters: (1, 256, 32, 32) embedding and
    (1, 1, 128, 128) logits for a positive point at pixel `index` (x, y).

    16-pixel patches every 8 pixels of 264, no absolute positions (their adapter is switched off), relative positions
    of the global blocks interpolated to 63 entries.
    """
    encoder = model.vision_encoder
    with torch.no_grad():
        enlarged = F.interpolate(image, size=(264, 264), mode="bilinear").expand(-1, 3, -1, -1)
        projection = encoder.patch_embed.projection
        hidden = F.conv2d(enlarged, projection.weight, projection.bias, stride=8).permute(0, 2, 3, 1)
        for layer in encoder.layers:
            hidden = layer(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        embedding = encoder.neck(hidden)
        masks = model(image_embeddings=embedding, input_points=torch.tensor([[[list(map(float, index))]]]),
                      input_labels=torch.ones(1, 1, 1, dtype=torch.long), multimask_output=False).pred_masks
    return embedding, masks[:, 0]


@pytest.fixture(scope="class")
def sam():
    """A random SAM ViT-B of transformers: its state, an image, a point, and what it answers."""
    model = stirred(SamModel(SamConfig(prompt_encoder_config={"image_size": 256, "patch_size": 8})), 0.03)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    image = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(2))
    answers = sam_answers(model, image, (150, 60))
    yield model.state_dict(), image, (150, 60), answers
    del model
    gc.collect()


class TestSAM:
    @pytest.mark.parametrize("publisher", ["Meta", "the hub"])
    def test_sam_of_either_publisher(self, folder, sam, publisher):
        """BUSSAM with every trained number but the relative positions at 0 is SAM itself, on 256 pixels."""
        state, image, index, (embedding, logits) = sam
        if publisher == "Meta":
            torch.save(as_meta_saves(state), folder / "sam_vit_b_01ec64.pth")
        else:
            save_file({key: value for key, value in state.items() if not key.startswith("prompt_encoder.shared")},
                      folder / "sam-vit-base.safetensors")
        system = build("bussam")
        record, checksum = system.weights_record[0], frozen(system)
        assert (record["weights"], record["tensors_missing"]) == ("pretrained", 0)
        with torch.no_grad():
            for name, parameter in system.named_parameters():
                if parameter.requires_grad and not name.startswith("tables"):
                    parameter.zero_()
        seen = {}
        decoder = next(module for module in system.modules() if isinstance(module, SamMaskDecoder))
        decoder.register_forward_pre_hook(lambda _, __, named: seen.update(named), with_kwargs=True)
        point = (torch.tensor([index], dtype=torch.float32) + 0.5) / 256  # a pixel's centre as a fraction of the frame
        with torch.no_grad():
            found = system.training_logits(image, system.encode_images(image), Prompts(point=point))
        close(seen["image_embeddings"], embedding)
        close(found, logits)
        records = system.weights_record
        del system, decoder
        seen.clear()
        torch.save({}, folder / "sam_vit_b_another.pth")
        assert frozen(build("bussam", records)) == checksum
        for file in folder.iterdir():
            file.unlink()
        with pytest.raises(StudyError, match=record["file"]):
            build("bussam", records)
