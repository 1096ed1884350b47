"""Layers of torch that its kernels take slowly on CPUs, done in another way: same parameters, names and meaning.

What each saves is in benchmarks/README.md. Shapes as in the paper: B, C, H, W.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution whose stride is its kernel: each input pixel becomes a patch of its own.

    No two patches overlap, so it is one matrix product and a rearrangement; torch's kernels on CPUs take two to
    four times as long for its gradient (benchmarks/README.md). Parameters and their names are nn.ConvTranspose2d's.
    """

    def __init__(self, channels: int, out: int, patch: int):
        super().__init__(channels, out, patch, stride=patch)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, out, patch·h, patch·w)."""
        out, patch = self.weight.shape[1:3]
        matrix = self.weight.permute(2, 3, 1, 0).reshape(-1, self.in_channels)  # (patch·patch·out, C)
        bias = None if self.bias is None else self.bias.repeat(patch * patch)
        patches = F.linear(features.permute(0, 2, 3, 1), matrix, bias)  # (B, h, w, patch·patch·out)
        rows = patches.unflatten(3, (patch, patch, out)).transpose(2, 3)  # (B, h, patch, w, patch, out)
        return rows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # (B, out, patch·h, patch·w), channels last


WIDE = 1024  # input channels from which ConvGradient is the faster one (benchmarks/README.md)


class Conv3x3(nn.Conv2d):
    """nn.Conv2d of 3×3 pixels; for wide bfloat16 maps on CPUs the gradient is the one below, otherwise torch's own."""

    def __init__(self, channels: int, out: int):
        super().__init__(channels, out, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out, H, W)."""
        if features.device.type == "cpu" and features.dtype == torch.bfloat16 and self.in_channels >= WIDE:
            return ConvGradient.apply(features, self.weight.to(features.dtype), self.bias.to(features.dtype))
        return super().forward(features)


class ConvGradient(torch.autograd.Function):
    """3×3 convolution whose weights' gradient is a matrix product for each of the nine places of the kernel.

    Where a map has many channels and few pixels, torch's kernel for it takes three to ten times as long on CPUs.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        return F.conv2d(features, weight, bias, padding=1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        into_features = torch.ops.aten.convolution_backward(  # asked for the bias, it would make the weights' too
            grad, features, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False])[0]
        into_weight = kernel_gradient(features, grad) if ctx.needs_input_grad[1] else None  # Grad-CAM needs none
        return into_features, into_weight, pixel_sum(grad).sum(0)


def kernel_gradient(features: Tensor, grad: Tensor) -> Tensor:
    """Gradient (O, C, 3, 3) of a padded 3×3 kernel; `features` (B, C, H, W), the output's gradient (B, O, H, W)."""
    height, width = features.shape[2:]
    padded = F.pad(features, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (B, H + 2, W + 2, C)
    by_channel = grad.permute(1, 0, 2, 3).flatten(1)  # (O, B·H·W)
    kernel = features.new_empty(grad.shape[1], 3, 3, features.shape[1])
    for row in range(3):
        for column in range(3):
            seen = padded[:, row:row + height, column:column + width].flatten(0, 2)  # (B·H·W, C)
            kernel[:, row, column] = by_channel @ seen
    return kernel.permute(0, 3, 1, 2)  # (O, C, 3, 3), channels last


class Dropout(nn.Dropout):
    """nn.Dropout that draws 16 random bits for an element on CPUs; torch's own takes four times as long.

    p is rounded to a multiple of 2⁻¹⁶: 0.1 becomes 0.100006, and the scale is that share's.
    """

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or features.device.type != "cpu":
            return super().forward(features)
        dropped = round(self.p * 2**16)
        bits = torch.empty(-(-features.numel() // 4), dtype=torch.int64).random_(-2**63, None).view(torch.int16)
        kept = bits[:features.numel()].view(features.shape) >= dropped - 2**15  # int16 begins at -2¹⁵
        return features * kept.to(features.dtype).mul_(2**16 / (2**16 - dropped))


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm; the gradient of bfloat16 maps on CPUs is the one below, of all others torch's own."""

    def forward(self, features: Tensor) -> Tensor:
        if features.device.type == "cpu" and features.dtype == torch.bfloat16:
            return GroupNormGradient.apply(features, self.weight, self.bias, self.num_groups, self.eps)
        return super().forward(features)


class GroupNormGradient(torch.autograd.Function):
    """Group normalisation of bfloat16 maps (B, C, H, W) whose gradient goes over them in whole rows.

    torch's gradient on CPUs takes the channels of a pixel group by group, eight at a time, where a register holds
    sixteen or thirty-two: three times as long. Sums and statistics are float32, the maps bfloat16, as torch's are.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels = features.shape[:2]
        pixels = features.shape[2:].numel()
        out, mean, rstd = torch.native_group_norm(features, weight, bias, batch, channels, pixels, groups, eps)
        ctx.save_for_backward(features, weight, mean, rstd)  # mean and 1/SD: (B, G)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, rstd = ctx.saved_tensors
        batch, channels = features.shape[:2]
        inside = channels // mean.shape[1]  # channels of a group
        mean, rstd = mean.repeat_interleave(inside, 1), rstd.repeat_interleave(inside, 1)  # (B, C) from here on
        sums = pixel_sum(grad)
        products = (pixel_sum(grad * features) - mean * sums) * rstd  # of grad · normalised

        def group_mean(sums: Tensor) -> Tensor:
            means = sums.view(batch, -1, inside).sum(2) / (inside * features.shape[2:].numel())
            return means.repeat_interleave(inside, 1)

        # the gradient is rstd · (w · grad − a − b · normalised): a factor of grad, one of features, and a constant
        of_grad = (rstd * weight).to(grad.dtype)
        of_features = (-rstd.square() * group_mean(products * weight)).to(grad.dtype)
        constant = -(group_mean(of_grad * sums) + of_features * mean)  # a group's gradients sum to nothing
        out = torch.addcmul(spread(constant.to(grad.dtype)), spread(of_features), features)
        return torch.addcmul(out, spread(of_grad), grad), products.sum(0), sums.sum(0), None, None


def spread(factors: Tensor) -> Tensor:
    """(B, C) to (B, C, 1, 1)."""
    return factors[:, :, None, None]


def pixel_sum(maps: Tensor) -> Tensor:
    """Sums of channels-last maps (B, C, H, W) over their pixels, float32 (B, C): each row's, then the rows'."""
    batch, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(batch * height, width, channels).sum(1)
    return rows.view(batch, height, channels).sum(1, dtype=torch.float32)
