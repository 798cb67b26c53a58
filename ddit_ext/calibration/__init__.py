"""From a target speed to steps and patch sizes: candidates are run on a few prompts, and the closest one is kept."""

from .calibrate import calibrate
from .preset import Candidate, Preset, PresetError

__all__ = ["Candidate", "Preset", "PresetError", "calibrate"]
