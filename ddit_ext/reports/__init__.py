"""Reports as one HTML file each: inline SVG and PNG, no script, no network, readable in light and dark."""

from .preset_page import preset_page
from .run_page import run_page

__all__ = ["preset_page", "run_page"]
