"""What a cost estimate is made for: devices, and how well they are used."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from greedy_prune_jax.accelerators import ACCELERATORS
from greedy_prune_jax.chains.config_fields import check_choice, check_least, checked_fields
from greedy_prune_jax.chains.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
  """The group `plan` of `configs/prune.py`; see there for what each setting means."""

  device: str
  num_devices: int
  peak_flops: float
  utilisation: float

  @classmethod
  def from_config(cls, config: Mapping[str, Any], file: str) -> "PlanSettings":
    """Settings from the keys of `config.plan`; `file` is where they are explained."""
    return cls(**checked_fields(cls, config, file))

  def __post_init__(self):
    check_choice("plan.device", self.device, ("", *ACCELERATORS))
    check_least(self, 0, "num_devices", "peak_flops")
    if not 0 < self.utilisation <= 1:
      raise UserError(
        f"plan.utilisation={self.utilisation}; expected a share of the peak, above 0 and up to 1"
      )
