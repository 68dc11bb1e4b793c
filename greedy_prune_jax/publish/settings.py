"""The settings of a `publish` run."""

import dataclasses
import re

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.settings import JobSettings

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishSettings(JobSettings):
  """Settings of `configs/publish.py`; see there for what each means."""

  config_file = "configs/publish.py"

  pruned: str
  keep_ratios: tuple[float, ...]
  title: str
  source: str
  license: str
  push: str
  private: bool

  def __post_init__(self):
    for ratio in self.keep_ratios:
      if not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise UserError(
          f"keep_ratios={self.keep_ratios} has {ratio!r}; expected numbers above 0, up to 1 (all "
          f"of the reasoning), or () for those that were asked for when the chains were pruned"
        )
    if len(set(self.keep_ratios)) < len(self.keep_ratios):
      raise UserError(f"keep_ratios={self.keep_ratios} repeats a ratio")
    if self.push and not _REPO.fullmatch(self.push):
      raise UserError(f"push={self.push!r}; expected ORG/NAME, or nothing to push nothing")
