"""Makes a dataset of pruned chains, for `datasets` and SFT tools, and pushes it to the hub.

python -m greedy_prune_jax.jobs.publish --config=configs/publish.py --workdir=DIR
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greedy_prune_jax.jobs.entry import print_result, run_job
from greedy_prune_jax.publish.run import run_publish
from greedy_prune_jax.publish.settings import PublishSettings


def publish(config: Mapping[str, Any], workdir: str) -> None:
  """Runs the job and prints what it did; `workdir` becomes the dataset's folder."""
  print_result(run_publish(PublishSettings.from_config(config), Path(workdir)))


if __name__ == "__main__":
  run_job(publish)
