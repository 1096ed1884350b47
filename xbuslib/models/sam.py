"""Segment Anything, frozen, on a 256-pixel frame: image encoder from timm, prompt encoder and mask decoder
from transformers (specs/baselines.md 5.3 and 5.4).

Only BUSSAM uses it. Parameters are frozen, but gradients flow through to the adapters between its blocks.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer_sam import get_decomposed_rel_pos_bias
from torch import Tensor, nn
from transformers import SamConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

from xbuslib.models.encoders import small_record
from xbuslib.models.weights import Rule, load_weights, recorded

STRIDE = 8  # 16-pixel patches every 8 pixels: 256 pixels give the 32×32 tokens of 5.3


class Shape(NamedTuple):
    """The measures of one SAM. In both, the frame is a quarter of the side that SAM itself was made for."""

    frame: int  # side of the square image, pixels
    width: int
    heads: int
    depth: int
    window: int  # side of the windowed blocks' windows, tokens
    global_blocks: tuple[int, ...]  # blocks whose attention sees every token; these get BUSSAM's adapters
    neck: int  # channels of the image embedding
    decoder_heads: int
    decoder_mlp: int

    @property
    def grid(self) -> int:
        """Tokens per side."""
        return self.frame // STRIDE


SHAPES = {
    "paper": Shape(256, 768, 12, 12, 14, (2, 5, 8, 11), 256, 8, 2048),  # SAM ViT-B
    "quick": Shape(128, 96, 3, 6, 6, (2, 5), 64, 4, 256),  # two of the four groups, an eighth of the width
}


class SAM(nn.Module):
    """SAM ViT-B (or a narrow relative) with its weights; `weights` is loaded by the rules of weights.py."""

    def __init__(self, size: str, weights: Rule):
        super().__init__()
        self.shape = shape = SHAPES[size]
        self.image_encoder = timm.create_model(
            "samvit_base_patch16", num_classes=0, img_size=4 * shape.frame, embed_dim=shape.width,
            depth=shape.depth, num_heads=shape.heads, window_size=shape.window,
            global_attn_indexes=list(shape.global_blocks), neck_chans=shape.neck,
            norm_layer=partial(nn.LayerNorm, eps=1e-6))  # SAM's epsilon; timm's default here is 1e-5
        self.prompt_encoder, self.mask_decoder = _prompt_parts(shape)
        if (recorded("sam", weights) or {"weights": weights})["weights"] != "pretrained":
            nn.init.trunc_normal_(self.image_encoder.pos_embed, std=0.02)  # timm leaves zeros
            self.apply(_keep_variance)
        self.weights = small_record("sam", weights) if size == "quick" else load_weights(self, "sam", weights)

    def take_tables(self) -> dict[str, nn.Parameter]:
        """The global blocks' relative-position tables resized to this frame's grid, (127, 64) to (63, 64).

        They leave the encoder, because BUSSAM trains them: from then on `global_attention` runs those blocks.
        """
        tables = {}
        for index in self.shape.global_blocks:
            attention = self.image_encoder.blocks[index].attn
            for axis in ("h", "w"):
                table = getattr(attention, f"rel_pos_{axis}").detach()  # (4g-1, D/heads)
                resized = F.interpolate(table.T[None], size=2 * self.shape.grid - 1, mode="linear")[0].T
                tables[f"{index}_{axis}"] = nn.Parameter(resized.contiguous())  # (2g-1, D/heads)
                delattr(attention, f"rel_pos_{axis}")
        return tables

    @torch.no_grad()
    def patches(self, frames: Tensor) -> Tensor:
        """(B, D, g, g) embedded patches of grey frames (B, 1, frame, frame): 264 pixels, 16×16 every 8."""
        side = self.shape.frame + STRIDE  # so that (side - 16) / 8 + 1 = g
        images = F.interpolate(frames, size=(side, side), mode="bilinear").expand(-1, 3, -1, -1)
        project = self.image_encoder.patch_embed.proj
        return F.conv2d(images, project.weight, project.bias, stride=STRIDE)

    def positions(self) -> Tensor:
        """(1, D, 2g, 2g) SAM's absolute position embedding, 64×64 in ViT-B."""
        return self.image_encoder.pos_embed.permute(0, 3, 1, 2)

    def embed_points(self, points: Tensor) -> Tensor:
        """(B, 2, C) prompt tokens of one positive point each: the point, and SAM's padding "not a point".

        `points` (B, 2) are x and y as fractions of the frame, a pixel's centre being at (index + 0.5) / side.
        SAM's prompt encoder takes pixel indices and adds the 0.5 itself.
        """
        indices = points.float() * self.shape.frame - 0.5
        labels = torch.ones(len(points), 1, 1, device=points.device)  # 1: positive
        with _full_precision(points.device):
            sparse, _ = self.prompt_encoder(indices[:, None, None], labels, None, None)  # (B, 1, 2, C)
        return sparse[:, 0]

    def decode(self, embedding: Tensor, points: Tensor) -> Tensor:
        """(B, 1, 4g, 4g) logits of mask token 0 for image embeddings (B, C, g, g) and points (B, 2)."""
        no_mask = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]  # (1, C, 1, 1)
        masks, _ = self.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=self._grid_positions().expand_as(embedding),
            sparse_prompt_embeddings=self.embed_points(points)[:, None],  # (B, 1, 2, C): one prompt per image
            dense_prompt_embeddings=no_mask.expand_as(embedding), multimask_output=False)
        return masks[:, 0]  # (B, 1, 1, 4g, 4g) to (B, 1, 4g, 4g)

    def _grid_positions(self) -> Tensor:
        """(1, C, g, g) the prompt encoder's embedding of every token's centre."""
        embed, grid = self.prompt_encoder.shared_embedding, self.shape.grid
        centres = (torch.arange(grid, device=embed.positional_embedding.device) + 0.5) / grid
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        with _full_precision(centres.device):
            positions = embed(torch.stack([columns, rows], dim=-1)[None])  # (1, g, g, 2) x, y to (1, g, g, C)
        return positions.permute(0, 3, 1, 2)

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of Meta's file or of the hub's facebook/sam-vit-base under the names of this module."""
        rules = _META if any(key.startswith("image_encoder.") for key in state) else _HUB
        renamed = {}
        for key, tensor in state.items():
            for pattern, replacement in rules:
                key = re.sub(pattern, replacement, key)
            renamed[key] = tensor
        return renamed


def global_attention(attention: nn.Module, tokens: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """SAM's attention over all tokens (B, h, w, D) with its projections and the tables (2h-1, d), (2w-1, d).

    The bias of query i and key j is q_i·R_h[Δrow] + q_i·R_w[Δcolumn], with q before scaling.
    """
    batch, height, width, channels = tokens.shape
    heads = attention.num_heads
    qkv = attention.qkv(tokens).view(batch, height * width, 3, heads, channels // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)  # each (B·heads, N, d)
    grid = height, width
    bias = get_decomposed_rel_pos_bias(q, table_h.to(q.dtype), table_w.to(q.dtype), grid, grid)  # (·, N, N)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B·heads, N, d), scaled by 1/√d
    mixed = mixed.unflatten(0, (batch, heads)).transpose(1, 2).reshape(batch, height, width, channels)
    return attention.proj(mixed)


def _full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast: the sines of a position need more than the 8 bits of bfloat16."""
    usable = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if usable else nullcontext()


def _keep_variance(module: nn.Module) -> None:
    """He's random weights: torch's own shrink what passes at each frozen layer until little is left."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.ConvTranspose2d):  # stride equals kernel: one product per input channel
        nn.init.normal_(module.weight, std=(2 / module.in_channels) ** 0.5)
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _prompt_parts(shape: Shape) -> tuple[SamPromptEncoder, SamMaskDecoder]:
    config = SamConfig(
        vision_config={"num_pos_feats": shape.neck // 2},
        prompt_encoder_config={"hidden_size": shape.neck, "image_size": shape.frame, "patch_size": STRIDE},
        mask_decoder_config={"hidden_size": shape.neck, "num_attention_heads": shape.decoder_heads,
                             "mlp_dim": shape.decoder_mlp, "iou_head_hidden_dim": shape.neck})
    config.vision_config.scale = 1.0  # SD of the random frequencies in Meta's code
    config.mask_decoder_config._attn_implementation = "sdpa"
    encoder, decoder = SamPromptEncoder(config), SamMaskDecoder(config.mask_decoder_config)
    embed = encoder.shared_embedding
    frequencies = embed.positional_embedding.detach()  # a buffer in Meta's code, so not counted
    del embed.positional_embedding
    embed.register_buffer("positional_embedding", frequencies)
    return encoder, decoder


# From transformers' names, where the image encoder is its own, not timm's.
_HUB = (
    (r"^shared_image_embedding\.", "prompt_encoder.shared_embedding."),
    (r"^vision_encoder\.patch_embed\.projection", "image_encoder.patch_embed.proj"),
    (r"^vision_encoder\.neck\.conv1", "image_encoder.neck.0"),
    (r"^vision_encoder\.neck\.layer_norm1", "image_encoder.neck.1"),
    (r"^vision_encoder\.neck\.conv2", "image_encoder.neck.2"),
    (r"^vision_encoder\.neck\.layer_norm2", "image_encoder.neck.3"),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers\.(\d+)\.mlp\.lin", r"image_encoder.blocks.\1.mlp.fc"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
)
# From Meta's names (sam_vit_b_01ec64.pth), whose prompt encoder and mask decoder are its own.
_MLP = r"mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)"
_META = (
    (r"^(image_encoder\.blocks\.\d+\.mlp)\.lin", r"\1.fc"),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
     "prompt_encoder.shared_embedding.positional_embedding"),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm", r"\1.layer_norm"),
    (r"^mask_decoder\.transformer\.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    # Perceptrons of three layers; the middle one last, so that no rule meets the result of another.
    (rf"^({_MLP})\.layers\.0\.", r"\1.proj_in."),
    (rf"^({_MLP})\.layers\.2\.", r"\1.proj_out."),
    (rf"^({_MLP})\.layers\.1\.", r"\1.layers.0."),
)
