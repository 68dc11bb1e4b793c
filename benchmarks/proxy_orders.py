"""Could a small model's order stand in for a large one's choices, checked a few at a time?

    python -m benchmarks.proxy_orders --chains=FILE --proposer=smollm2-135m-instruct \
      --verifier=gemma3-270m --num_chains=12

Both prune each chain exactly, word by word, since models of two tokenizers have words in common.
From every state of the verifier's own path, the next deletions of the proposer's order are scored
by the verifier: it would accept as many of them, up to --batch, as leave a text whose NLL is at
most --regret above that of its own text of as many words. Printed are the mean numbers that it
accepts, how often the first is its own choice, and its NLLs along both orders. With one model as
both, all are accepted.
"""

import itertools
import statistics
from collections.abc import Sequence

import numpy as np
from absl import app, flags

import greedy_prune_jax as gp
from greedy_prune_jax.api import Pruned, Pruner
from greedy_prune_jax.chains.chain import num_kept
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.segments import segment
from greedy_prune_jax.rankings.steps import score_without, unit_positions
from greedy_prune_jax.search.units import unit_sizes

_CHAINS = flags.DEFINE_string("chains", None, "File of chains.", required=True)
_PROPOSER = flags.DEFINE_string("proposer", "smollm2-135m-instruct", "The small model.")
_VERIFIER = flags.DEFINE_string("verifier", "gemma3-270m", "The large model.")
_TEMPLATES = flags.DEFINE_list("chat_templates", ["tokenizer", "plain"], "Theirs, in this order.")
_NUM_CHAINS = flags.DEFINE_integer("num_chains", 12, "Chains, the first of these lengths.")
_SHORTEST = flags.DEFINE_integer("shortest", 20, "Words at least.")
_LONGEST = flags.DEFINE_integer("longest", 45, "Words at most.")
_BATCH = flags.DEFINE_integer("batch", 8, "Deletions that are proposed at once.")
_REGRET = flags.DEFINE_float("regret", 0.01, "Share by which an accepted NLL may be higher.")
_OBJECTIVE = flags.DEFINE_enum("objective", "joint", ["joint", "answer"], "Of both searches.")
_KEEP = (0.9, 0.7, 0.5)


def words_of(pruned: Pruned) -> list[int]:
  """Indices of the words, in the order of their deletion."""
  sizes = unit_sizes("word", pruned.tokens) or ()
  word_at = np.repeat(np.arange(len(sizes)), sizes)
  return list(dict.fromkeys(int(word_at[position]) for position in pruned.deletion_order))


def nlls_without(pruner: Pruner, pruned: Pruned, gone: Sequence[Sequence[int]]) -> list[float]:
  """NLLs of the chain without each list of words, under the objective, nats per token."""
  template = load_chat_template(pruner.settings["chat_template"], pruner.tokenizer)
  segments = segment(pruned.chain, pruner.tokenizer, template)
  places = unit_positions(unit_sizes("word", pruned.tokens) or ())
  texts = [sorted(position for word in words for position in places[word]) for words in gone]
  return score_without(pruner.model, segments, texts)[_OBJECTIVE.value].tolist()


def main(_) -> None:
  """Prunes, proposes, and prints a line a chain and the means."""
  names = (_PROPOSER.value, _VERIFIER.value)
  proposer, verifier = (
    gp.load(name, chat_template=template)
    for name, template in zip(names, _TEMPLATES.value, strict=True)
  )
  rows = []
  print(f"{_OBJECTIVE.value}, {names[0]} proposes, {names[1]} verifies; keep ratios {_KEEP}")
  for chain in read_chains(_CHAINS.value, num_chains=0, seed=0):
    num_words = len(unit_sizes("word", list(chain.reasoning)) or ())
    if not _SHORTEST.value <= num_words <= _LONGEST.value:
      continue
    both = [
      pruner.prune(chain, unit="word", keep=min(_KEEP), objective=_OBJECTIVE.value)
      for pruner in (proposer, verifier)
    ]
    if len({len(unit_sizes("word", pruned.tokens) or ()) for pruned in both}) > 1:
      continue  # a token of one of them straddles two words
    theirs, own = both
    rows.append(_compared(verifier, own, words_of(theirs), words_of(own), num_words))
    print(f"{chain.id}: {num_words} words; {_line(rows[-1])}", flush=True)
    if len(rows) == _NUM_CHAINS.value:
      break
  means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
  print(f"mean of {len(rows)}: {_line(means)}")


def _compared(
  verifier: Pruner, own: Pruned, proposed: list[int], chosen: list[int], num_words: int
) -> list[float]:
  """Accepted deletions, share of first ones that are its own, NLLs along both orders at `_KEEP`."""
  tries = []  # of each state: what is gone after one more proposal, after two, ...
  for state in range(len(chosen)):
    gone = chosen[:state]
    left = [word for word in proposed if word not in gone]
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
  first = [texts[0][-1] == word for texts, word in zip(tries, chosen, strict=True) if texts]
  marks = [num_words - num_kept(num_words, keep) for keep in _KEEP]
  return [
    statistics.fmean(accepted),
    statistics.fmean(first),
    *(path[min(mark, len(path) - 1)] for path in (own_nll, their_nll) for mark in marks),
  ]


def _line(row: Sequence[float]) -> str:
  accepted, first, *nlls = row
  own, theirs = nlls[: len(_KEEP)], nlls[len(_KEEP) :]
  return (
    f"accepts {accepted:.2f}, first is its own {first:.0%}; own "
    f"{' '.join(f'{nll:.3f}' for nll in own)}; along the proposer's order "
    f"{' '.join(f'{nll:.3f}' for nll in theirs)}"
  )


if __name__ == "__main__":
  app.run(main)
