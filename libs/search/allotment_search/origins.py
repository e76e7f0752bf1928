"""Where a trial's derivation comes from."""

from typing import Literal

Origin = Literal["CONSTANT", "DEFAULT", "PORTFOLIO", "RANDOM", "TPE"]
