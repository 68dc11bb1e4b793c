"""Could a small model's order stand in for a large one's choices, checked a few at a time?

    python -m benchmarks.proxy_orders --chains=FILE --proposer=smollm2-135m-instruct \
      --verifier=gemma3-270m --num_chains=12

Both prune each chain exactly, by units that they have in common: of two tokenizers, words (--unit).
From every state of the verifier's own path, the next deletions of the proposer's order are scored
by the verifier: it would accept as many of them, up to --batch, as leave a text whose NLL is at
most --regret above that of its own text of as many words. Printed are the mean number that it
accepts where --batch of them are left to its depth (near the end fewer are, which would count as
refusals), how often the first is its own choice, and its NLLs along both orders. With one model as
both, all are accepted.
"""

import itertools
import statistics
from collections.abc import Sequence

import numpy as np
from absl import app, flags

import greedy_prune_jax as gp
from greedy_prune_jax.api import Pruned, Pruner
from greedy_prune_jax.chains.chain import share_of
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.segments import segment, token_texts
from greedy_prune_jax.rankings.steps import score_without, unit_positions
from greedy_prune_jax.search.units import unit_sizes

_CHAINS = flags.DEFINE_string("chains", "", "File of chains.")
_PROPOSER = flags.DEFINE_string("proposer", "smollm2-135m-instruct", "The small model.")
_VERIFIER = flags.DEFINE_string("verifier", "gemma3-270m", "The large model.")
_TEMPLATES = flags.DEFINE_list("chat_templates", ["tokenizer", "plain"], "Theirs, in this order.")
_NUM_CHAINS = flags.DEFINE_integer("num_chains", 12, "Chains, the first of these lengths.")
_UNIT = flags.DEFINE_string("unit", "word", "Unit of deletion.")
_SHORTEST = flags.DEFINE_integer("shortest", 20, "Units at least.")
_LONGEST = flags.DEFINE_integer("longest", 45, "Units at most.")
_BATCH = flags.DEFINE_integer("batch", 8, "Deletions that are proposed at once.")
_REGRET = flags.DEFINE_float("regret", 0.01, "Share by which an accepted NLL may be higher.")
_OBJECTIVE = flags.DEFINE_enum("objective", "joint", ["joint", "answer"], "Of both searches.")
_KEEP = (0.9, 0.7, 0.5)


def sizes_of(pruned: Pruned) -> Sequence[int]:
  """Tokens of each unit of the reasoning."""
  return unit_sizes(_UNIT.value, pruned.tokens) or (1,) * len(pruned.tokens)


def units_of(pruned: Pruned) -> list[int]:
  """Indices of the units, in the order of their deletion."""
  sizes = sizes_of(pruned)
  unit_at = np.repeat(np.arange(len(sizes)), sizes)
  return list(dict.fromkeys(int(unit_at[position]) for position in pruned.deletion_order))


def nlls_without(pruner: Pruner, pruned: Pruned, gone: Sequence[Sequence[int]]) -> list[float]:
  """NLLs of the chain without each list of units, under the objective, nats per token."""
  template = load_chat_template(pruner.settings["chat_template"], pruner.tokenizer)
  segments = segment(pruned.chain, pruner.tokenizer, template)
  places = unit_positions(sizes_of(pruned))
  texts = [sorted(position for unit in units for position in places[unit]) for units in gone]
  return score_without(pruner.model, segments, texts)[_OBJECTIVE.value].tolist()


def main(_) -> None:
  """Prunes, proposes, and prints a line a chain and the means."""
  if not _CHAINS.value:
    raise app.UsageError("name a file of chains by --chains")
  names = (_PROPOSER.value, _VERIFIER.value)
  proposer, verifier = (
    gp.load(name, chat_template=template)
    for name, template in zip(names, _TEMPLATES.value, strict=True)
  )
  rows = []
  print(f"{_OBJECTIVE.value}, {names[0]} proposes, {names[1]} verifies; keep ratios {_KEEP}")
  for chain in read_chains(_CHAINS.value, num_chains=0, seed=0):
    tokens = [token_texts(pruner.tokenizer, chain.reasoning) for pruner in (proposer, verifier)]
    lengths = [len(unit_sizes(_UNIT.value, texts) or texts) for texts in tokens]
    if lengths[0] != lengths[1] or not _SHORTEST.value <= lengths[0] <= _LONGEST.value:
      continue  # of unlike lengths, a token of one of them straddles two words
    theirs, own = (
      pruner.prune(chain, unit=_UNIT.value, keep=min(_KEEP), objective=_OBJECTIVE.value)
      for pruner in (proposer, verifier)
    )
    rows.append(_compared(verifier, own, units_of(theirs), units_of(own)))
    print(f"{chain.id}: {lengths[0]} units; {_line(rows[-1])}", flush=True)
    if len(rows) == _NUM_CHAINS.value:
      break
  columns = np.array(rows, float)  # NaN: of a chain that is shorter than a batch
  means = [float(np.nanmean(x)) if np.isfinite(x).any() else np.nan for x in columns.T]
  print(f"mean of {len(rows)}: {_line(means)}")


def _compared(verifier: Pruner, own: Pruned, proposed: list[int], chosen: list[int]) -> list[float]:
  """Accepted deletions, share of first ones that are its own, NLLs along both orders at `_KEEP`.

  The accepted ones are a mean over the states in which a whole batch was proposed; NaN without any.
  """
  tries = []  # of each state: what is gone after one more proposal, after two, ...
  for state in range(len(chosen)):
    gone = chosen[:state]
    left = [unit for unit in proposed if unit not in gone]
    most = min(_BATCH.value, len(chosen) - state)
    tries.append([gone + left[: n + 1] for n in range(min(most, len(left)))])
  paths = [order[:n] for order in (chosen, proposed) for n in range(len(order) + 1)]
  nlls = iter(nlls_without(verifier, own, [*paths, *itertools.chain(*tries)]))
  own_nll, their_nll = ([next(nlls) for _ in range(len(order) + 1)] for order in (chosen, proposed))
  accepted = []
  for state, texts in enumerate(tries):
    most = [nll * (1 + _REGRET.value) for nll in own_nll[state + 1 :]]
    fine = [n for n, _ in enumerate(texts) if next(nlls) <= most[n]]
    accepted.append(max(fine, default=-1) + 1)
  whole = [
    number for number, texts in zip(accepted, tries, strict=True) if len(texts) == _BATCH.value
  ]
  first = [texts[0][-1] == unit for texts, unit in zip(tries, chosen, strict=True) if texts]
  num_units = len(sizes_of(own))
  marks = [num_units - share_of(num_units, keep) for keep in _KEEP]
  return [
    statistics.fmean(whole) if whole else np.nan,
    statistics.fmean(first),
    *(path[min(mark, len(path) - 1)] for path in (own_nll, their_nll) for mark in marks),
  ]


def _line(row: Sequence[float]) -> str:
  accepted, first, *nlls = row
  own, theirs = nlls[: len(_KEEP)], nlls[len(_KEEP) :]
  return (
    f"accepts {accepted:.2f} of {_BATCH.value}, first is its own {first:.0%}; own "
    f"{' '.join(f'{nll:.3f}' for nll in own)}; along the proposer's order "
    f"{' '.join(f'{nll:.3f}' for nll in theirs)}"
  )


if __name__ == "__main__":
  app.run(main)
