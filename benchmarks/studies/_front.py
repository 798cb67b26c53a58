"""Makes the helpers of ``benchmarks/`` importable from here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
