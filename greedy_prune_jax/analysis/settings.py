"""The settings of an `analyze` run, checked before anything is loaded."""

import dataclasses

from greedy_prune_jax.analysis.feature_store import DTYPES as FEATURE_DTYPES
from greedy_prune_jax.analysis.model_annotator import MODEL
from greedy_prune_jax.analysis.rank_regression import NUM_FOLDS, REGRESSORS
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import MeshSettings
from greedy_prune_jax.runs.settings import DTYPES, JobSettings, check_least
from greedy_prune_jax.teachers.settings import MAY_CHANGE as ENDPOINT_MAY_CHANGE
from greedy_prune_jax.teachers.settings import EndpointSettings

PARTS = (
  *("patterns", "agreement", "orders", "likelihood", "needed", "importances", "regression"),
  "viewer",
)

# What a later run in the same workdir may set differently: it does not decide what is stored.
MAY_CHANGE = (
  "parts",
  "pruned",  # labels, features and regressions are checked against the chains themselves
  "names",
  "other_labels",
  "answers",
  "regressors",
  "viewer_chains",
  "pruner",  # a place of the same model
  "batch_positions",
  "mesh.data",
  "mesh.model",
  "compilation_cache",
  *ENDPOINT_MAY_CHANGE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalyzeSettings(JobSettings):
  """Settings of `configs/analyze.py`, which explains each."""

  config_file = "configs/analyze.py"

  parts: tuple[str, ...]
  names: tuple[str, ...]
  num_chains: int
  annotator: str
  text_model: str
  endpoint: EndpointSettings
  other_labels: tuple[str, ...]
  viewer_chains: int
  answers: tuple[str, ...]
  pruner: str
  dtype: str
  feature_dtype: str
  batch_positions: int
  mesh: MeshSettings
  regressors: tuple[str, ...]
  late_share: float
  compilation_cache: bool

  def __post_init__(self):
    for name, values, choices in (
      ("parts", self.parts, PARTS),
      ("regressors", self.regressors, tuple(REGRESSORS)),
      ("feature_dtype", (self.feature_dtype,), FEATURE_DTYPES),
      ("dtype", (self.dtype,), DTYPES),
    ):
      if not values:
        raise UserError(f"{name} is empty; expected some of {', '.join(choices)}")
      for value in values:
        if value not in choices:
          raise UserError(f"{name} has {value!r}; expected some of {', '.join(choices)}")
    if (self.annotator == MODEL) != bool(self.text_model):
      raise UserError(
        f"annotator={self.annotator!r}, text_model={self.text_model!r}: the annotator {MODEL}, and "
        "no other, needs the name of a model, or openai for one at an endpoint"
      )
    for name in ("num_chains", "viewer_chains"):
      if getattr(self, name) < 0:
        raise UserError(f"{name}={getattr(self, name)}; expected 0 (all) or more")
    if 0 < self.num_chains < NUM_FOLDS and "regression" in self.parts:
      raise UserError(
        f"num_chains={self.num_chains}; the regression needs at least {NUM_FOLDS}, one for each "
        "fold; take more, or leave regression out of parts"
      )
    check_least(self, 1, "batch_positions")
    if not 0 < self.late_share < 1:
      raise UserError(f"late_share={self.late_share}; expected a share between 0 and 1")
