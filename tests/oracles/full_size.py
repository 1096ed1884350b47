"""For the tests of full-size weights files: a weights folder, random models of the publishers, and comparisons."""

import gc

import huggingface_hub.constants
import torch

from xbuslib.config import resolve
from xbuslib.models import registry, weights

SIDE = 224  # CLIP's own: its positional embedding is taken as it is


def empty_folder(path, monkeypatch):
    """An empty weights folder at `path`, emptied again at the end, and no network: the body of a fixture."""
    monkeypatch.setenv("XBUS_WEIGHTS", str(path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    yield path
    for file in path.iterdir():
        file.unlink()


def stirred(model, amount=0.02):
    """The model with every tensor moved at random, so that no bias is 0, no scale 1 and no two tensors alike."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=amount)
            if name.endswith("running_var"):
                tensor.abs_().clamp_(0.5)
    return model.eval().requires_grad_(False)


def build(system, recorded=None):
    """A system at full size whose encoders come from the weights folder, or from the record of a run."""
    gc.collect()  # modules with hooks refer to themselves
    torch.manual_seed(8)
    config = resolve("paper", {"image_size": SIDE, "weights": "pretrained"})
    return registry.build(system, config, recorded=recorded).eval()


def frozen(system):
    """The checksum of each frozen encoder."""
    return [weights.checksum(getattr(system, name)) for name in system.frozen]


def grey(mean, std, side=SIDE, seed=1):
    """(1, 1, S, S) image in [0, 1] and the same as three channels, normalised."""
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return image, (image - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def close(found, wanted):
    assert found.shape == wanted.shape
    assert wanted.abs().max() > 0.01, "the comparison would say nothing"
    assert (found - wanted).abs().max() < 1e-4
