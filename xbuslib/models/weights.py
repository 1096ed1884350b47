"""Weights of pretrained encoders: found, read under any publisher's names, loaded and recorded.

Weights are looked for in the folder named by XBUS_WEIGHTS, then at their hub. `pretrained` refuses to go on
without them; `partial` loads what the folder has and records what it covered; `random` loads nothing. When a run is
read back, its own records stand in place of the rule: an encoder is rebuilt as it was, from the file of the same
checksum.
"""

import hashlib
import json
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from open_clip.model import resize_pos_embed
from safetensors.torch import load_file
from torch import Tensor, nn

from xbuslib.errors import StudyError

Rule = str | list[dict]  # "pretrained", "partial", "random"; or the records of a run.json


class Published(NamedTuple):
    """Where an encoder's weights are published."""

    files: tuple[str, ...]  # names under which a weights folder may hold them, the first match is taken
    repository: str  # of the hub, tried after the folder
    file: str


PUBLISHED = {
    "resnet50": Published(("resnet50-0676ba61.pth", "resnet50*.safetensors", "resnet50*.pth", "resnet50*.bin"),
                          "timm/resnet50.tv_in1k", "model.safetensors"),
    "clip": Published(("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "ViT-B-16.pt",
                       "*ViT-B-16*.safetensors", "*ViT-B-16*.bin", "*clip*b*16*.safetensors", "*clip*b*16*.bin"),
                      "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors"),
    "sam": Published(("sam_vit_b_01ec64.pth", "sam_vit_b*.pth", "sam*vit*b*.safetensors", "sam*vit*b*.bin"),
                     "facebook/sam-vit-base", "model.safetensors"),
}
SMP = "smp-"  # begins the names of encoders of segmentation_models_pytorch (smp.py)
GELU, QUICK_GELU = "GELU", "QuickGELU"


def published(name: str) -> Published:
    """Where the weights of encoder `name` are published."""
    if not name.startswith(SMP):
        return PUBLISHED[name]
    encoder = name.removeprefix(SMP)
    return Published((f"{name}.safetensors", f"{encoder}.imagenet/model.safetensors"), f"smp-hub/{encoder}.imagenet",
                     "model.safetensors")


def load_weights(encoder: nn.Module, name: str, weights: Rule, path: Path | None = None) -> dict:
    """Load an encoder's weights by the rule `weights` and return what was loaded, for run.json.

    `path`: the file, where the caller has found it already. Raises StudyError when `pretrained` finds nothing, a file
    does not fit, or a run's own file is gone.
    """
    path = path or file_for(name, weights)
    if path is None:
        return recorded(name, weights) or random_record(name, weights)
    state = _fit(read_state(path), encoder)
    # not the encoder's own method, which in segmentation_models_pytorch returns nothing
    missing, unexpected = nn.Module.load_state_dict(encoder, state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if weights == "pretrained" and missing:
        raise StudyError(f"{path} lacks {len(missing)} tensors of {name} (first: {missing[0]}); "
                         f"give the whole file, or say weights=partial to load what it has")
    loaded = len(state) - len(unexpected)
    if loaded == 0:
        raise StudyError(f"{path} holds no tensor of {name}; is it the right file?")
    return {"encoder": name, "weights": "partial" if missing else "pretrained", "file": path.name,
            "sha256": sha256(path), "tensors_loaded": loaded, "tensors_missing": len(missing)}


def file_for(name: str, weights: Rule) -> Path | None:
    """The file that the rule has an encoder loaded from; None: its numbers stay random.

    Raises StudyError if `pretrained` finds none, or if none is the one that a run recorded.
    """
    if isinstance(weights, list):
        record = recorded(name, weights)
        return _of_checksum(name, record) if "sha256" in record else None
    if weights == "random":
        return None
    return find_weights(name) if weights == "partial" else locate(name)


def random_record(name: str, weights: Rule) -> dict:
    """The record of an encoder whose numbers are random."""
    reason = {"reason": "no file in the weights folder"} if weights == "partial" else {}
    return {"encoder": name, "weights": "random"} | reason


def recorded(name: str, weights: Rule) -> dict | None:
    """An encoder's record in a run's; None for a rule. Raises StudyError if the run had no such encoder."""
    if not isinstance(weights, list):
        return None
    found = [record for record in weights if record["encoder"] == name]
    if not found:
        raise StudyError(f"the run records no encoder {name}; it was made by another version of the system")
    return found[0]


def locate(name: str) -> Path:
    """The weights file of encoder `name`, fetched from its hub if need be. Raises StudyError if it cannot be had."""
    return find_weights(name) or _from_hub(name)


def find_weights(name: str) -> Path | None:
    """The file for encoder `name` in the folder XBUS_WEIGHTS, or None."""
    return next(iter(_candidates(name)), None)


def require_something_found(records: list[dict]) -> None:
    """Refuse `partial` where nothing at all was found: it would train from random numbers under another name."""
    if records and all(record["weights"] == "random" for record in records) and not any(
            map(find_weights, {**PUBLISHED, **{record["encoder"]: None for record in records}})):
        folder = os.environ.get("XBUS_WEIGHTS")
        raise StudyError(("weights=partial needs the folder XBUS_WEIGHTS, which is not set" if not folder else
                          f"weights=partial, but XBUS_WEIGHTS={folder} holds no file of any encoder "
                          f"({', '.join(each.files[0] for each in PUBLISHED.values())}, …)")
                         + "; set it to a folder with weights, or say weights=random")


def coverage(records: list[dict]) -> str:
    """ "resnet50: 258 of 318 tensors from resnet50.pth; clip: random numbers", what training starts from."""
    return "; ".join(
        f"{record['encoder']}: {record['tensors_loaded']} of {record['tensors_loaded'] + record['tensors_missing']} "
        f"tensors from {record['file']}" + (f", {record['activation']} ({record['known_by']})" if "activation" in record
                                            else "")
        if "file" in record else f"{record['encoder']}: random numbers" for record in records)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file: safetensors, a state dict of torch, or OpenAI's TorchScript archive."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            return dict(torch.jit.load(path, map_location="cpu").float().state_dict())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StudyError(f"cannot read weights {path}: {error}. Fetch the file again.") from None
    return state.get("state_dict", state)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(module: nn.Module) -> str:
    """SHA-256 over a module's tensors in key order: equal checksums, equal frozen encoders."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def clip_activation(path: Path) -> tuple[str, str]:
    """(activation, how it is known) of a CLIP ViT-B/16 file: OpenAI's have QuickGELU, LAION's GELU.

    No tensor's shape shows it. Known by the configuration beside the file (open_clip_config.json, or the hub's
    config.json), by the file being OpenAI's archive, by its name, or by OpenAI's numbers being in half precision.
    """
    for name, find in (("open_clip_config.json", lambda config: config["model_cfg"].get("quick_gelu", False)),
                       ("config.json", lambda config: {"clip": config["vision_config"]["hidden_act"] == "quick_gelu"}[
                           config["model_type"]])):  # of another model it says nothing
        try:
            quick = find(json.loads(path.with_name(name).read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return QUICK_GELU if quick else GELU, name
    if _is_torchscript(path):
        return QUICK_GELU, "OpenAI's archive"
    for pattern, activation in ((r"quickgelu|openai|dfn", QUICK_GELU), (r"laion|datacomp|commonpool", GELU)):
        if re.search(pattern, path.name.lower()):
            return activation, "the file's name"
    if path.name == "open_clip_pytorch_model.bin":
        return GELU, "the file's name, LAION's"
    numbers = [value for value in read_state(path).values() if value.is_floating_point()]
    if all(torch.equal(value, value.half().to(value.dtype)) for value in numbers):
        return QUICK_GELU, "numbers in half precision, as OpenAI's are"
    return QUICK_GELU, "assumed, as in the paper; its numbers are not in half precision as OpenAI's are, so if it is " \
                       "another one's put its open_clip_config.json beside it"


_HUB_CLIP = (  # transformers' names of CLIP's tensors, and open_clip's
    (r"^vision_model\.", "visual."), (r"^text_model\.", ""),
    (r"encoder\.layers\.", "transformer.resblocks."), (r"self_attn\.", "attn."),
    (r"layer_norm(\d)", r"ln_\1"), (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"),
    (r"embeddings\.class_embedding", "class_embedding"), (r"embeddings\.patch_embedding", "conv1"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"), (r"embeddings\.token_emb", "token_emb"),
    (r"pre_layrnorm", "ln_pre"), (r"post_layernorm", "ln_post"), (r"final_layer_norm", "ln_final"),
    (r"^visual_projection\.weight", "visual.proj"), (r"^text_projection\.weight", "text_projection"),
    (r"attn\.q_proj\.", "attn.in_proj_"),
)


def from_hub_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP state dict under transformers' names, under open_clip's; any other one as it is."""
    if not any(key.startswith("vision_model.") for key in state):
        return state
    renamed = {}
    for key, value in state.items():
        if key.endswith("position_ids") or "k_proj" in key or "v_proj" in key:
            continue
        if "q_proj" in key:  # open_clip keeps the three projections of attention in one, (3D, D)
            value = torch.cat([state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
        for pattern, replacement in _HUB_CLIP:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value.T.contiguous() if key in ("visual.proj", "text_projection") else value
    return renamed


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as packed:
        return any(name.endswith("constants.pkl") for name in packed.namelist())


def _candidates(name: str) -> list[Path]:
    """Every file in XBUS_WEIGHTS that may hold encoder `name`, best first. Raises StudyError if it is no folder."""
    folder = os.environ.get("XBUS_WEIGHTS")
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise StudyError(f"XBUS_WEIGHTS={folder} is not a folder")
    return list(dict.fromkeys(path for pattern in published(name).files for path in sorted(Path(folder).glob(pattern))))


def _of_checksum(name: str, record: dict) -> Path:
    """The very file that a run's record names by its checksum, wherever it lies now."""
    for path in _candidates(name):
        if sha256(path) == record["sha256"]:
            return path
    try:
        path = _from_hub(name)
    except StudyError:
        path = None
    if path is None or sha256(path) != record["sha256"]:
        raise StudyError(f"the run was made with {name} from {record['file']} (SHA-256 {record['sha256'][:12]}…), "
                         "which is not in the folder XBUS_WEIGHTS; set XBUS_WEIGHTS to the folder that holds it")
    return path


def _from_hub(name: str) -> Path:
    """Download through huggingface_hub, as timm and open_clip do; a clear message when there is no network."""
    from huggingface_hub import hf_hub_download

    there = published(name)
    try:
        return Path(hf_hub_download(there.repository, there.file))
    except Exception as error:
        folder = os.environ.get("XBUS_WEIGHTS") or "(XBUS_WEIGHTS is not set)"
        raise StudyError(
            f"no weights for {name}: the folder {folder} has no file like {there.files[0]}, and "
            f"{there.repository} could not be fetched ({type(error).__name__}). Put the file there, or say "
            "weights=partial or weights=random.") from None


def _fit(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Drop a classifier head; rename what the encoder calls otherwise; resize CLIP's positional embedding."""
    state = from_hub_names({key: value for key, value in state.items() if not key.startswith("fc.")})
    if hasattr(encoder, "rename"):  # SAM: two published files, two ways to name its tensors
        state = encoder.rename(state)
    if "visual.positional_embedding" in state:
        resize_pos_embed(state, encoder)
    own = encoder.state_dict()
    wrong = [key for key in state if key in own and own[key].shape != state[key].shape]
    if wrong:
        raise StudyError(f"tensor {wrong[0]} has shape {tuple(state[wrong[0]].shape)}, "
                         f"the encoder needs {tuple(own[wrong[0]].shape)}: wrong weights file")
    return state
