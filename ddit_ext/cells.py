"""One view of every latent: `cells` [B, F, h, w, C, p, p], strided, never a copy.

Sample, frame, row and column of the base patch grid, channel, row and column inside a base patch.
"""

from torch import Tensor


def from_packed(tokens: Tensor, h: int, w: int, p: int = 2) -> Tensor:
    """FLUX's packed tokens [B, h*w, C*p*p], feature = c*p*p + dy*p + dx, as cells [B, 1, h, w, C, p, p].

    h and w count base patches. Raises ValueError where the sizes do not fit.
    """
    _check_patch_size("from_packed", p)
    if tokens.dim() != 3:
        raise ValueError(f"from_packed: tokens must have shape [B, h*w, C*p*p], got {list(tokens.shape)}")
    if h < 1 or w < 1 or tokens.shape[1] != h * w:
        raise ValueError(
            f"from_packed: h and w must satisfy h*w = tokens.shape[1] = {tokens.shape[1]}, got h={h}, w={w}"
        )
    if tokens.shape[2] == 0 or tokens.shape[2] % (p * p):
        raise ValueError(
            f"from_packed: tokens must have C*p*p features, a multiple of p*p = {p * p}, "
            f"got {tokens.shape[2]}"
        )
    return tokens.view(tokens.shape[0], 1, h, w, tokens.shape[2] // (p * p), p, p)


def from_latents(latents: Tensor, p: int = 2) -> Tensor:
    """Latents [B, C, H, W] or [B, C, F, H, W] as cells [B, F, H/p, W/p, C, p, p].

    Raises ValueError where H or W is no multiple of p.
    """
    _check_patch_size("from_latents", p)
    if latents.dim() not in (4, 5):
        raise ValueError(
            "from_latents: latents must have shape [B, C, H, W] or [B, C, F, H, W], "
            f"got {list(latents.shape)}"
        )
    video = latents if latents.dim() == 5 else latents.unsqueeze(2)
    batch, channels, frames, height, width = video.shape
    if height == 0 or width == 0 or height % p or width % p:
        raise ValueError(
            f"from_latents: latents must have a height and width that are multiples of p = {p}, "
            f"got {height} x {width}"
        )
    split = video.view(batch, channels, frames, height // p, p, width // p, p)
    return split.permute(0, 2, 3, 5, 1, 4, 6)


def _check_patch_size(function: str, p: int) -> None:
    if p < 1:
        raise ValueError(f"{function}: p must be at least 1, got {p}")
