"""CLIP ViT-B/16 at full size as open_clip, OpenAI and the hub save it: each file loads whole, gives the tokens and
texts that the publisher's library gives, with the activation that it was trained with, and a run's CLIP is built again
from its record (specification 0.4). The numbers are random; the files hold half a gigabyte each, one at a time.
"""

import gc
import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel

from oracles.full_size import SIDE, build, close, empty_folder, frozen, grey, stirred
from xbuslib.errors import StudyError
from xbuslib.models import weights

TEXTS = ["irregular shape, microlobulated margin, BI-RADS 4", "a small lesion in the upper left"]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # as published


@pytest.fixture
def folder(tmp_path, monkeypatch):
    yield from empty_folder(tmp_path, monkeypatch)


def clip_features(model):
    """(1, 3, 196, 768) patch tokens after open_clip's blocks 3, 7 and 9, and (2, 512) texts, un-normalised."""
    tokens = {}
    handles = [model.visual.transformer.resblocks[block].register_forward_hook(
        lambda module, inputs, output, block=block: tokens.update({block: output[:, 1:]})) for block in (3, 7, 9)]
    with torch.no_grad():
        model.encode_image(grey(CLIP_MEAN, CLIP_STD)[1])
        texts = model.encode_text(open_clip.get_tokenizer("ViT-B-16")(TEXTS))
    for handle in handles:
        handle.remove()
    return torch.stack([tokens[block] for block in (3, 7, 9)], dim=1), texts


@pytest.fixture(scope="class")
def clip():
    """A random CLIP of open_clip: its state (numbers that half precision holds), and its features by activation."""
    model = stirred(open_clip.create_model("ViT-B-16"))
    state = {key: value.half().float() for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    features = {"GELU": clip_features(model)}
    del model
    quick = open_clip.create_model("ViT-B-16-quickgelu").eval()
    quick.load_state_dict(state)
    features["QuickGELU"] = clip_features(quick)
    del quick
    assert (features["GELU"][0] - features["QuickGELU"][0]).abs().max() > 0.01
    yield state, features
    del state
    gc.collect()


def loads_as(features, activation):
    """The frozen checksum and the record of XBusNet's CLIP, built by the rule `pretrained`."""
    system = build("xbusnet-no-lfe")
    record = system.weights_record[0]
    assert record["weights"] == "pretrained" and record["tensors_missing"] == 0
    assert record["activation"] == activation
    computes(system, features)
    return frozen(system), system.weights_record


def computes(system, features):
    tokens, texts = features
    with torch.no_grad():
        close(system.encode_images(grey(CLIP_MEAN, CLIP_STD)[0]), tokens)
        close(system.encode_texts(TEXTS), texts)


class Node(nn.Module):
    """A module of a TorchScript archive, which holds tensors and further modules and computes nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def archive(state):
    """Nested modules that hold the tensors of `state` under its names, as OpenAI's archive does."""
    root = Node()
    for name, tensor in state.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            if part not in node._modules:
                node.add_module(part, Node())
            node = node._modules[part]
        node.register_buffer(last, tensor) if tensor.dim() == 0 and tensor.dtype == torch.int64 else \
            node.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    return torch.jit.script(root)


class TestCLIPOfOpenClip:
    """Three files of one random model, which is freed after them."""

    def test_open_clips_safetensors_with_gelu_by_its_configuration(self, folder, clip):
        """A LAION file: `open_clip_config.json` beside it says nothing of QuickGELU. A run made with it stays GELU."""
        state, features = clip
        save_file(state, folder / "open_clip_model.safetensors")
        settings = folder / "open_clip_config.json"
        settings.write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": {}}))
        checksum, records = loads_as(features["GELU"], "GELU")

        settings.unlink()  # the file was copied alone: the run's record still says what it was
        again = build("xbusnet-no-lfe", records)
        assert frozen(again) == checksum
        assert again.weights_record[0]["activation"] == "GELU"
        computes(again, features["GELU"])

    def test_open_clips_pickled_file_under_laions_name(self, folder, clip):
        """And read back by its checksum, though another file comes first in the folder now."""
        state, features = clip
        torch.save(state, folder / "open_clip_pytorch_model.bin")
        checksum, records = loads_as(features["GELU"], "GELU")
        save_file({"visual.proj": torch.zeros(768, 512)}, folder / "open_clip_model.safetensors")
        again = build("xbusnet-no-lfe", records)
        assert frozen(again) == checksum and again.weights_record[0]["file"] == "open_clip_pytorch_model.bin"
        del again
        (folder / "open_clip_pytorch_model.bin").unlink()
        with pytest.raises(StudyError, match="open_clip_pytorch_model.bin"):
            build("xbusnet-no-lfe", records)

    def test_openais_torchscript_archive_in_half_precision(self, folder, clip):
        state, features = clip
        sizes = {"input_resolution": SIDE, "context_length": 77, "vocab_size": 49408}  # in OpenAI's archive besides
        halves = {key: value.half() for key, value in state.items()} | {k: torch.tensor(v) for k, v in sizes.items()}
        archive(halves).save(str(folder / "ViT-B-16.pt"))
        del halves
        checksum, records = loads_as(features["QuickGELU"], "QuickGELU")
        again = build("xbusnet-no-lfe", records)
        assert frozen(again) == checksum and again.weights_record[0]["activation"] == "QuickGELU"


def test_the_hubs_clip_under_transformers_names(folder):
    settings = {"hidden_size": 768, "patch_size": 16, "num_hidden_layers": 12, "num_attention_heads": 12,
                "intermediate_size": 3072, "image_size": SIDE, "hidden_act": "quick_gelu"}
    model = stirred(CLIPModel(CLIPConfig(vision_config=settings, text_config={"hidden_act": "quick_gelu"})))
    model.save_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "clip-vit-base-patch16.safetensors")
    with torch.no_grad():
        states = model.vision_model(grey(CLIP_MEAN, CLIP_STD)[1], output_hidden_states=True).hidden_states
        ids = open_clip.get_tokenizer("ViT-B-16")(TEXTS)
        texts = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    features = torch.stack([states[block + 1][:, 1:] for block in (3, 7, 9)], dim=1), texts
    del model
    checksum, records = loads_as(features, "QuickGELU")
    assert frozen(build("xbusnet-no-lfe", records)) == checksum


@pytest.mark.parametrize(("file", "beside", "activation"), [
    ("open_clip_model.safetensors", {}, "QuickGELU"),  # OpenAI's numbers are in half precision
    ("open_clip_model.safetensors", {"open_clip_config.json": {"model_cfg": {"quick_gelu": True}}}, "QuickGELU"),
    ("open_clip_model.safetensors", {"open_clip_config.json": {"model_cfg": {"embed_dim": 512}}}, "GELU"),
    ("clip-b16.safetensors", {"config.json": {"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}}, "GELU"),
    ("CLIP-ViT-B-16-laion2B-s34B-b88K.safetensors", {}, "GELU"),
    ("CLIP-ViT-B-16-DataComp.XL-s13B-b90K.safetensors", {}, "GELU"),
    ("ViT-B-16-openai.safetensors", {}, "QuickGELU"),
    # a configuration of another model in the same folder says nothing of CLIP
    ("open_clip_model.safetensors", {"config.json": {"model_type": "sam", "vision_config": {"hidden_act": "gelu"}}},
     "QuickGELU"),
])
def test_the_activation_is_known_by_configuration_name_or_numbers(folder, file, beside, activation):
    save_file({"visual.proj": torch.randn(768, 512).half().float()}, folder / file)
    for name, content in beside.items():
        (folder / name).write_text(json.dumps(content))
    found = weights.find_weights("clip")
    assert found == folder / file
    assert weights.clip_activation(found)[0] == activation
