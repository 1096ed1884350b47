"""Layers as plain functions over a state dict, and a system with random numbers in every weight that it saves.

`s` is a system's state dict, `name` the place of a layer in it. Nothing here comes from the library.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def scramble(system: nn.Module, seed: int = 0) -> nn.Module:
    """Random scales, shifts and running statistics: as they are at first, 0 and 1, they would hide what they do.

    Transposed convolutions of decoders are four times as strong as at first, so that what comes from below counts
    beside the skips.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in system.state_dict().items():
            if not value.is_floating_point() or value.ndim == 0:
                continue
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.copy_(torch.rand(value.shape, generator=draw) + 0.5)
            elif value.ndim == 1:
                value.copy_(0.2 * torch.randn(value.shape, generator=draw))
            elif name.endswith(".up.weight"):
                value.mul_(4)
            elif value.std() == 0:
                value.add_(0.3 * torch.randn(value.shape, generator=draw))
    return system.eval()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal to 1e-5 of the largest number; and not all the same, or the comparison would mean nothing."""
    assert found.shape == expected.shape
    assert expected.std() > 1e-2 * expected.abs().max(), "the expected numbers hardly differ from one another"
    apart = ((found - expected).abs().max() / expected.abs().max()).item()
    assert apart < tolerance, f"{apart:.1e} apart"


def three_channels(image: Tensor, mean, std) -> Tensor:
    """A grey image in [0, 1] as red, green and blue, standardised."""
    return (image.repeat(1, 3, 1, 1) - torch.tensor(mean, dtype=image.dtype).view(3, 1, 1)) / torch.tensor(
        std, dtype=image.dtype).view(3, 1, 1)


def conv(s: dict, name: str, x: Tensor, **how) -> Tensor:
    return F.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), **how)


def up_conv(s: dict, name: str, x: Tensor, stride: int = 2) -> Tensor:
    """Transposed convolution whose kernel is as wide as its stride."""
    return F.conv_transpose2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), stride=stride)


def linear(s: dict, name: str, x: Tensor) -> Tensor:
    return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))


def batch_norm(s: dict, name: str, x: Tensor, training: bool = False) -> Tensor:
    """With the running statistics, or with those of the batch."""
    mean, variance = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()
    return x * s[f"{name}.weight"].view(-1, 1, 1) + s[f"{name}.bias"].view(-1, 1, 1)


def layer_norm(s: dict, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Over the last dimension."""
    spread = x.var(-1, keepdim=True, unbiased=False)
    return (x - x.mean(-1, keepdim=True)) / (spread + eps).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]


def layer_norm_2d(s: dict, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    """Over the channels of a map."""
    return layer_norm(s, name, x.permute(0, 2, 3, 1), eps).permute(0, 3, 1, 2)


def group_norm(s: dict, name: str, x: Tensor, groups: int) -> Tensor:
    grouped = x.reshape(len(x), groups, -1)
    spread = grouped.var(-1, keepdim=True, unbiased=False)
    x = ((grouped - grouped.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt()).view(x.shape)
    return x * s[f"{name}.weight"].view(-1, 1, 1) + s[f"{name}.bias"].view(-1, 1, 1)


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H·W, C), row after row."""
    return torch.stack([x[:, :, r, c] for r in range(x.shape[2]) for c in range(x.shape[3])], 1)


def grid(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H·W, C) as (B, C, H, W), row after row."""
    return torch.stack([x[:, r * width:(r + 1) * width] for r in range(height)], 1).permute(0, 3, 1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Multi-head attention, head after head; q, k and v are (B, N, C) with the heads side by side in C."""
    width, out = q.shape[-1] // heads, []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / width ** 0.5 + bias).softmax(-1)
        out.append(weights @ v[..., part])
    return torch.cat(out, -1)


def self_attention(s: dict, name: str, x: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """As `nn.MultiheadAttention` saves its weights: queries, keys and values in one matrix."""
    q, k, v = F.linear(x, s[f"{name}.in_proj_weight"], s[f"{name}.in_proj_bias"]).chunk(3, -1)
    return linear(s, f"{name}.out_proj", attend(q, k, v, heads, bias))


def post_norm_layer(s: dict, name: str, x: Tensor, heads: int) -> Tensor:
    """Standard encoder layer: the norm comes after each sum; ReLU; in evaluation, without dropout."""
    x = layer_norm(s, f"{name}.norm1", x + self_attention(s, f"{name}.self_attn", x, heads))
    return layer_norm(s, f"{name}.norm2", x + linear(s, f"{name}.linear2", linear(s, f"{name}.linear1", x).relu()))


def double_conv(s: dict, name: str, x: Tensor, training: bool = False) -> Tensor:
    """Twice: 3×3 convolution, batch norm, ReLU."""
    x = batch_norm(s, f"{name}.1", conv(s, f"{name}.0", x, padding=1), training).relu()
    return batch_norm(s, f"{name}.4", conv(s, f"{name}.3", x, padding=1), training).relu()


def up_block(s: dict, name: str, x: Tensor, skip: Tensor, training: bool = False) -> Tensor:
    """Specification 2: transposed convolution 2×2, concatenation with the skip, two convolutions."""
    return double_conv(s, f"{name}.conv", torch.cat([up_conv(s, f"{name}.up", x), skip], 1), training)


def residual_block(s: dict, name: str, x: Tensor, groups: int) -> Tensor:
    """Specification 6.4: GroupNorm, SiLU, 3×3 convolution, twice; beside it the identity, or 1×1 if widths differ."""
    y = conv(s, f"{name}.body.2", F.silu(group_norm(s, f"{name}.body.0", x, groups)), padding=1)
    y = conv(s, f"{name}.body.5", F.silu(group_norm(s, f"{name}.body.3", y, groups)), padding=1)
    return y + (conv(s, f"{name}.skip", x) if f"{name}.skip.weight" in s else x)


def resnet(s: dict, name: str, x: Tensor, training: bool = False) -> list[Tensor]:
    """ResNet, version 1: stem, and the outputs of its four stages (1/2, 1/4, 1/8, 1/16, 1/32)."""
    stem = batch_norm(s, f"{name}.bn1", conv(s, f"{name}.conv1", x, stride=2, padding=3), training).relu()
    x, maps = F.max_pool2d(stem, 3, 2, 1), [stem]
    for stage in (1, 2, 3, 4):
        x = resnet_stage(s, f"{name}.layer{stage}", x, 2 if stage > 1 else 1, training)
        maps.append(x)
    return maps


def resnet_stage(s: dict, name: str, x: Tensor, stride: int, training: bool = False) -> Tensor:
    """Blocks with a sum at their end; the identity beside them, or a strided 1×1 convolution where shapes differ.

    A stage's stride is in its first block: in the 3×3 convolution of a bottleneck, in the first one of a basic block.
    """
    block = 0
    while f"{name}.{block}.conv1.weight" in s:
        at, here, y = f"{name}.{block}", stride if block == 0 else 1, x
        bottleneck = ((1, 1, 0), (2, here, 1), (3, 1, 0))  # convolution, its stride and padding
        steps = bottleneck if f"{at}.conv3.weight" in s else ((1, here, 1), (2, 1, 1))
        for step, step_stride, padding in steps:
            y = batch_norm(s, f"{at}.bn{step}", conv(s, f"{at}.conv{step}", y, stride=step_stride, padding=padding),
                           training)
            y = y.relu() if step < len(steps) else y
        if f"{at}.downsample.0.weight" in s:
            x = batch_norm(s, f"{at}.downsample.1", conv(s, f"{at}.downsample.0", x, stride=here), training)
        x, block = (x + y).relu(), block + 1
    return x


def clip_vision(s: dict, image: Tensor, heads: int) -> list[Tensor]:
    """Tokens (B, 1 + N, D), class token first, after each block of CLIP's vision transformer, which has pre-norm
    blocks and QuickGELU. The image has three channels, standardised."""
    at = "clip.model.visual"
    x = tokens(F.conv2d(image, s[f"{at}.conv1.weight"], stride=16))
    x = torch.cat([s[f"{at}.class_embedding"].expand(len(x), 1, -1), x], 1) + s[f"{at}.positional_embedding"]
    x, found, i = layer_norm(s, f"{at}.ln_pre", x), [], 0
    while f"{at}.transformer.resblocks.{i}.ln_1.weight" in s:
        block = f"{at}.transformer.resblocks.{i}"
        x = x + self_attention(s, f"{block}.attn", layer_norm(s, f"{block}.ln_1", x), heads)
        y = linear(s, f"{block}.mlp.c_fc", layer_norm(s, f"{block}.ln_2", x))
        x = x + linear(s, f"{block}.mlp.c_proj", y * (1.702 * y).sigmoid())
        found.append(x)
        i += 1
    return found


def clip_image_embedding(s: dict, image: Tensor, heads: int) -> Tensor:
    """(B, d): the class token after the last block, through its layer norm, projected; its length is left as it is."""
    last = clip_vision(s, image, heads)[-1][:, 0]
    return layer_norm(s, "clip.model.visual.ln_post", last) @ s["clip.model.visual.proj"]


def watch_dropout(module: nn.Module, run) -> dict[str, tuple[float, float]]:
    """For each dropout layer of `module` while `run()` runs: the share of numbers dropped, the factor of those kept."""
    seen, hooks = {}, []

    def hook(name):
        def look(_, given, out):
            before, after = given[0].detach(), out.detach()
            was = before != 0
            kept = was & (after != 0)
            seen[name] = (1 - kept.sum() / was.sum()).item(), (after[kept] / before[kept]).median().item()
        return look

    for name, part in module.named_modules():
        if isinstance(part, nn.Dropout):
            hooks.append(part.register_forward_hook(hook(name)))
    run()
    for each in hooks:
        each.remove()
    return seen
