"""Compares bfloat16 weights with float32 ones, on the same chains in one sitting.

    python -m benchmarks.dtypes --chains=FILE[,FILE...] [--num_chains=3] [--max_reasoning_tokens=40]

Prunes each chain to half its tokens in both dtypes and prints, per chain and objective: the error
of bfloat16 in the whole chain's NLL, and the largest while both had deleted the same tokens;
Spearman's and Kendall's correlation of the prune ranks (tokens that stayed share the highest
rank); at which deletion the orders part; and positions per second of both. The first time of a size
includes compiling where the cache has nothing.
"""

import itertools

import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy.stats import kendalltau, spearmanr

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.segments import segment
from greedy_prune_jax.jobs.entry import keep_compilations
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.scoring.objectives import OBJECTIVES
from greedy_prune_jax.search.audit import prune_ranks
from greedy_prune_jax.search.capacity import choose_batching
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath

_CHAINS = flags.DEFINE_list("chains", None, "Files of chains.", required=True)
_NUM = flags.DEFINE_integer("num_chains", 3, "How many chains.")
_LIMIT = flags.DEFINE_integer("max_reasoning_tokens", 40, "Longer ones are left out.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m-instruct", "The pruner.")


def main(_) -> None:
  """Prunes in both dtypes and prints one line a chain and objective."""
  keep_compilations()
  tokenizer = load_tokenizer(_MODEL.value)
  template = load_chat_template("tokenizer", tokenizer)
  chains = (chain for file in _CHAINS.value for chain in read_chains(file))
  segments = (segment(chain, tokenizer, template) for chain in chains)
  short = (s for s in segments if len(s.reasoning) <= _LIMIT.value)
  chosen = list(itertools.islice(short, _NUM.value))
  models = {dtype: load_model(_MODEL.value, jnp.dtype(dtype)) for dtype in ("float32", "bfloat16")}
  print(
    "   N  objective  NLL error: whole  largest   Spearman  Kendall  parts at    pos/s f32, bf16"
  )
  for parts in chosen:
    sizes = choose_batching([parts], models["float32"], 1, [0.0])
    for objective in OBJECTIVES:
      paths = {}
      for dtype, model in models.items():
        start = PrunePath(parts, floor=len(parts.reasoning) // 2)
        search = SearchSettings(objective, sizes.block_positions, sizes.kept_bytes)
        [paths[dtype]] = prune_paths(model, [start], search)
      one, other = paths.values()
      same = np.asarray(one.deleted) == np.asarray(other.deleted)
      parted = len(same) if same.all() else int(same.argmin())
      nlls = (np.asarray(path.nll[objective][: parted + 1]) for path in (one, other))
      errors = np.abs(np.subtract(*nlls))
      ranks = [prune_ranks(path) for path in (one, other)]
      speeds = [path.positions_scored / path.seconds for path in (one, other)]
      print(
        f"{len(parts.reasoning):4}  {objective:9}{errors[0]:18.5f}{errors.max():9.5f}"
        f"{spearmanr(*ranks).statistic:11.3f}{kendalltau(*ranks).statistic:9.3f}"  # pyright: ignore
        f"{f'{parted} of {len(same)}':>10}{speeds[0]:12.0f}{speeds[1]:6.0f}",
        flush=True,
      )


if __name__ == "__main__":
  app.run(main)
