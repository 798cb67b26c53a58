"""Presets: what a calibration found, as a small file, and whether it fits a pipeline."""

from .preset import Candidate, Preset, PresetError

__all__ = ["Candidate", "Preset", "PresetError"]
