"""Search by runs beside rankings: NLLs of the texts that each leaves at keep ratios.

    python -m benchmarks.search_by_runs --chains=FILE --shortest=100 --longest=300 --num_chains=20

A line for each chain: its `joint` NLL in nats per token at each keep ratio, by search by runs and
by the best of the rankings, and the token positions that the search ran. At the end the means, and
on how many chains search by runs is no worse than the best ranking of that chain and ratio. With
--single_tokens=N the first N chains are also pruned token by token, in races, and two rows compare
these chains alone.
"""

import statistics
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from absl import app, flags

from greedy_prune_jax.chains.chain import share_of
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.segments import Segments, reasoning_texts, segment
from greedy_prune_jax.chains.thinking_chains import fit_chain
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.rankings.interface import RankingInput, RankingSettings
from greedy_prune_jax.rankings.registry import RANKINGS
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.runs import prune_by_runs
from greedy_prune_jax.search.screen import ScreenSettings
from greedy_prune_jax.search.texts import score_texts, start_prompt

_CHAINS = flags.DEFINE_string("chains", None, "File of chains.", required=True)
_SHORTEST = flags.DEFINE_integer("shortest", 100, "Reasoning tokens at least.")
_LONGEST = flags.DEFINE_integer("longest", 300, "Reasoning tokens at most.")
_NUM_CHAINS = flags.DEFINE_integer("num_chains", 20, "Chains, the first of this length.")
_RATIOS = flags.DEFINE_list("keep_ratios", ["0.7", "0.5", "0.3", "0.1"], "Keep ratios.")
_RANKINGS = flags.DEFINE_list(
  "rankings",
  ["keep_last", "keep_first", "numbers_first", "random", "surprisal", "attention"],
  "Rankings to compare with.",
)
_MAX_RUNS = flags.DEFINE_integer("max_runs", 0, "Most runs between two ratios; 0: no limit.")
_SINGLE_TOKENS = flags.DEFINE_integer("single_tokens", 0, "Chains pruned token by token as well.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m-instruct", "The pruner.")
_THINKING = flags.DEFINE_string("thinking", "auto", "As in the prune job.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Dtype of the weights.")
_BLOCK_POSITIONS = 1536


def nlls_of_orders(
  model: Model, segments: Segments, orders: Mapping[str, Sequence[int]], marks: list[int]
) -> dict[str, list[float]]:
  """Joint NLLs of what each deletion order leaves at so many tokens, nats per token."""
  prompt = start_prompt(model, segments, _BLOCK_POSITIONS)
  num_reasoning, found = len(segments.reasoning), {}
  for name, order in orders.items():
    gone = [order[: num_reasoning - mark] for mark in marks]
    nlls = score_texts(model, prompt, segments, gone, _BLOCK_POSITIONS)
    found[name] = nlls.joint.tolist()
  return found


def race_of_tokens(model: Model, segments: Segments, floor: int) -> PrunePath:
  """Deletes token by token, in races, down to so many tokens."""
  settings = SearchSettings("joint", _BLOCK_POSITIONS, screen=ScreenSettings())
  [path] = prune_paths(model, [PrunePath(segments, floor=floor)], settings)
  return path


def main(_) -> None:
  """Runs all chains and prints the table."""
  ratios = [float(ratio) for ratio in _RATIOS.value]
  tokenizer = load_tokenizer(_MODEL.value)
  template = load_chat_template("tokenizer", tokenizer)
  model = load_model(_MODEL.value, jnp.dtype(_DTYPE.value))
  print(f"{_MODEL.value}, {_DTYPE.value}; {jax.devices()[0].device_kind}; keep ratios {ratios}")
  settings = SearchSettings(
    "joint", _BLOCK_POSITIONS, screen=ScreenSettings(), by_runs=True, max_runs=_MAX_RUNS.value
  )
  rows: dict[str, list[list[float]]] = {}
  raced: list[list[float]] = []
  for chain in read_chains(_CHAINS.value, num_chains=0, seed=0):
    chain = fit_chain(chain, template, _THINKING.value)
    segments = segment(chain, tokenizer, template)
    length = len(segments.reasoning)
    if not _SHORTEST.value <= length <= _LONGEST.value:
      continue
    marks = [share_of(length, ratio) for ratio in ratios]
    tokens = tuple(reasoning_texts(chain, tokenizer, template))
    given = RankingInput(chain.id, segments, tokens)
    orders = {
      name: RANKINGS[name].make(model, RankingSettings())(given).order for name in _RANKINGS.value
    }
    nlls = nlls_of_orders(model, segments, orders, marks)
    started = time.perf_counter()
    path = PrunePath(segments, floor=min(marks), marks=tuple(marks))
    [path] = prune_by_runs(model, [path], settings)
    seconds = time.perf_counter() - started
    nlls["runs"] = [path.nll["joint"][length - mark] or 0.0 for mark in marks]
    for name, values in nlls.items():
      rows.setdefault(name, []).append(values)
    if len(raced) < _SINGLE_TOKENS.value:
      started = time.perf_counter()
      race = race_of_tokens(model, segments, min(marks))
      raced += nlls_of_orders(model, segments, {"": race.deleted}, marks).values()
      print(
        f"  token by token {_numbers(raced[-1])}; {race.positions_scored} positions, "
        f"{time.perf_counter() - started:.0f} s"
      )
    best = [min(values) for values in zip(*(nlls[name] for name in _RANKINGS.value), strict=True)]
    print(
      f"{chain.id}: {length} tokens, whole {path.nll['joint'][0]:.3f}; runs "
      f"{_numbers(nlls['runs'])}; best ranking {_numbers(best)}; "
      f"{path.positions_scored} positions, {seconds:.0f} s",
      flush=True,
    )
    if len(rows["runs"]) == _NUM_CHAINS.value:
      break
  for name, values in rows.items():
    print(f"{name:>14}  {_means(values)}")
  if raced:
    print(f"of the first {len(raced)} chains:")
    print(f"{'runs':>14}  {_means(rows['runs'][: len(raced)])}")
    print(f"{'single tokens':>14}  {_means(raced)}")
  for at, ratio in enumerate(ratios):
    no_worse = [
      runs[at] <= min(rows[name][i][at] for name in _RANKINGS.value) + 1e-4
      for i, runs in enumerate(rows["runs"])
    ]
    print(f"at {ratio}: no worse than the best ranking on {sum(no_worse)} of {len(no_worse)}")


def _means(rows: list[list[float]]) -> str:
  return _numbers([statistics.fmean(column) for column in zip(*rows, strict=True)])


def _numbers(values: list[float]) -> str:
  return " ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
  app.run(main)
