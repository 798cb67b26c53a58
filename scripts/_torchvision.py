"""Imports torchvision also where its operators don't load: its wheel for CUDA beside a torch without. Two must be declared then."""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float iou) -> Tensor")
