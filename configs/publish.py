"""Makes a dataset of the chains of a prune run, with its card, and pushes it to the hub.

    python -m greedy_prune_jax.jobs.publish --config=configs/publish.py --workdir=runs/dataset \
      --config.pruned=runs/prune --config.push=ORG/NAME

Takes seconds on a CPU. The workdir is the dataset's folder: `datasets.load_dataset("runs/dataset")`
gives the conversations, with "chains" behind it the deletion orders and NLLs.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()
  config.pruned = "runs/prune"  # a prune workdir, or one of its files
  config.keep_ratios = ()  # ratios of the conversations; 1: the whole chain; (): those of the run
  config.title = ""  # title of the card; empty: the dataset's name
  config.source = ""  # origin of the chains for the card; empty: `chains` of the prune run
  config.license = ""  # licence of the source, by its name on the hub; empty: looked up there
  config.push = ""  # ORG/NAME on the hub; without a token, the job only prints what it would push
  config.private = True  # True: a new dataset on the hub is private
  return config
