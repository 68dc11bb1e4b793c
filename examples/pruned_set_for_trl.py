"""A dataset of pruned chains for TRL's SFTTrainer, from the workdir of a prune run.

    python examples/pruned_set_for_trl.py --pruned=runs/quickstart --out=runs/sft

Seconds on a CPU, without TRL: the script ends with the lines that train on it. The folder is a
dataset in the hub's form; `--config.push=ORG/NAME` of the job `publish` puts it there.
"""

import argparse
from pathlib import Path

import datasets

from greedy_prune_jax.configs import publish
from greedy_prune_jax.publish.run import run_publish
from greedy_prune_jax.publish.settings import PublishSettings

TRAIN = """
import datasets
from trl import SFTConfig, SFTTrainer

SFTTrainer(
  model="HuggingFaceTB/SmolLM2-135M-Instruct",
  train_dataset=datasets.load_dataset("{folder}", split="train"),  # `messages` is read as it is
  args=SFTConfig(output_dir="student", assistant_only_loss=True),
).train()
"""


def main(pruned: str, out: str, keep_ratio: float) -> None:
  """Writes the dataset, and shows its first conversation and the training script."""
  config = publish.get_config()
  config.update({"pruned": pruned, "keep_ratios": (keep_ratio,)})
  print(run_publish(PublishSettings.from_config(config.to_dict()), Path(out)))
  rows = datasets.load_dataset(out, split="train")
  print(f"{len(rows)} conversations; the first:")
  for message in rows[0]["messages"]:
    print(f"[{message['role']}] {message['content']}")
  print(TRAIN.format(folder=out))


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--pruned", default="runs/quickstart", help="workdir of a prune run")
  parser.add_argument("--out", default="runs/sft", help="folder of the dataset, made anew")
  parser.add_argument("--keep_ratio", type=float, default=0.5)
  args = parser.parse_args()
  main(args.pruned, args.out, args.keep_ratio)
