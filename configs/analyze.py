"""Reads pruned chains: which tokens leave when, can attention predict it, and pages to look at.

    python -m greedy_prune_jax.jobs.analyze --config=configs/analyze.py \\
      --pruned=runs/prune[,runs/other] --workdir=runs/analyze

Needs `pip install 'greedy_prune_jax[analysis]'`. The workdir ends with `report.html`,
`viewer.html`, `plots` (PNG and SVG), `tables` (CSV and JSON), `labels` (the published viewer's
form) and, for each run, a fitted regression in `rankings`. Run the same command again after a kill
and it goes on.
"""

from ml_collections import config_dict

from greedy_prune_jax.teachers.settings import EndpointSettings


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()

  # The parts.
  # Some of these, in any order.
  config.parts = (
    "patterns",
    "agreement",
    "orders",
    "likelihood",
    "needed",
    "importances",
    "regression",
    "viewer",
  )

  # The runs.
  config.names = ()  # what the report calls the runs; empty: the names of their folders
  config.num_chains = 0  # of each run; 0: all
  config.viewer_chains = 200  # of each run in viewer.html; 0: all
  # Workdirs of evaluate_pruned over these runs, under the same names: viewer.html marks the keep
  # ratios at which the model still answers right. Results of prune's budget `right` need no naming.
  config.answers = ()

  # Categories of tokens.
  config.annotator = "rules"  # offline; or `model`: a text model, asked
  config.text_model = ""  # of annotator=model; as `teacher` in configs/sample.py
  # Where text_model=openai asks; see EndpointSettings.
  config.endpoint = config_dict.ConfigDict(EndpointSettings.defaults())
  config.other_labels = ()  # label files to hold the annotator against, in the viewer's form

  # Attention features, from one forward pass of each run's own pruner.
  # Place of that model, if it is not where the runs had it; checked by its weights and tokens.
  config.pruner = ""
  config.dtype = "float32"  # dtype of the weights: float32 or bfloat16
  config.feature_dtype = "float16"  # of the stored attention: float16 or float32
  config.batch_positions = 4096  # token positions at once, over all devices

  # Rank regression, tested on unseen chains.
  config.regressors = ("ridge", "trees")  # trees take minutes for a few hundred chains
  config.late_share = 0.25  # also predict which tokens leave last, so many, if pruned so far

  # The run; none of this changes a result.
  config.mesh = config_dict.ConfigDict()  # devices of each process; 0: all that are left
  config.mesh.data = 0  # chains, or replies of annotator=model, side by side
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  return config
