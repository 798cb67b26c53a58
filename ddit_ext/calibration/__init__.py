"""From a target speed to a preset: strategies are run on a few prompts, and the closest one is kept."""

from ..presets import Candidate, Preset, PresetError
from .calibrate import calibrate

__all__ = ["Candidate", "Preset", "PresetError", "calibrate"]
