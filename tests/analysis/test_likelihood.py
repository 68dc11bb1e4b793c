"""Likelihoods of what runs leave, from NLLs that are known."""

import dataclasses

import numpy as np
import pytest

from greedy_prune_jax.analysis.likelihood import likelihood_section, nlls_at_ratios
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.pruning.show import format_mean_nlls
from tests.helpers.planted import pruned_chain


def chain(joint, chain_id="c/0", ratios=("0.75", "0.5"), **changes):
  """A chain of four tokens, of which the first two leave."""
  nll = {"joint": joint, "answer": [2 * x if x is not None else None for x in joint]}
  pruned = pruned_chain("abcd", [0, 1], chain_id, nll=nll | {"reasoning": joint})
  return dataclasses.replace(pruned, pruned=dict.fromkeys(ratios, ""), **changes)


def run(name, *chains):
  return LabelledRun(name, chains, [(None,) * 4] * len(chains))


def test_nlls_at_ratios():
  found = nlls_at_ratios(chain((1.0, None, 3.0)))
  assert found.keys() == {1.0, 0.75, 0.5}
  assert (found[1.0], found[0.5]) == ((1, 2), (3, 6))
  assert np.isnan(found[0.75]).all()


def test_means_and_pairs():
  one = run("one", chain((1.0, 2.0, 3.0)), chain((1.0, 4.0, 5.0), "c/1"))
  two = run("two", chain((1.0, 3.0, 3.0)), chain((1.0, 7.0, 3.0), "c/1"))
  means, pairs = likelihood_section([one, two]).tables
  rows = {row[:2]: row for row in means.rows}
  assert list(rows) == [(name, ratio) for name in ("one", "two") for ratio in (1.0, 0.75, 0.5)]
  assert (rows["one", 0.75][2], rows["one", 0.75][5], rows["one", 0.75][-1]) == (3, 6, 2)
  assert rows["one", 0.5][3] < 4 == rows["one", 0.5][2] < rows["one", 0.5][4]
  assert [(row[:3], row[3], row[6], row[-1]) for row in pairs.rows] == [
    (("one", "two", 0.75), -2, -4, 2),
    (("one", "two", 0.5), 1, 2, 2),
  ]


def test_texts_that_were_never_scored_do_not_count():
  """In a search by runs single deletions are not scored: a mean of one chain is not of two."""
  one = run("one", chain((1.0, None, 3.0)), chain((1.0, 4.0, 5.0), "c/1"))
  two = run("two", chain((1.0, 3.0, 3.0)), chain((1.0, 7.0, 3.0), "c/1"))
  means, pairs = likelihood_section([one, two]).tables
  assert means.columns[-2:] == ("chains with joint", "chains with answer")
  rows = {row[:2]: row for row in means.rows}
  assert (rows["one", 0.75][2], *rows["one", 0.75][-2:]) == (4, 1, 1)
  assert rows["one", 0.5][-2:] == (2, 2)
  assert [row[-1] for row in pairs.rows] == [1, 2]


@pytest.mark.parametrize("change", [{"pruner": "another"}, {"ratios": ()}])
def test_what_cannot_be_compared_is_left_out(change):
  other = run("two", chain((1.0, 3.0, 3.0), **change))
  assert likelihood_section([run("one", chain((1.0, 2.0, 3.0))), other]).tables[1].rows == []


def test_printed_means_say_of_how_many_chains_they_are():
  told = format_mean_nlls([chain((1.0, None, 3.0)), chain((1.0, 4.0, 5.0), "c/1")]).splitlines()
  assert told[0].startswith("mean NLL of 2 chains")
  assert told[-2:] == [
    "      0.75   4.000   8.000  of the 1 chains scored there",
    "       0.5   4.000   8.000",
  ]


def test_one_run_has_no_pairs():
  assert likelihood_section([run("one", chain((1.0, 2.0, 3.0)))]).tables[1].rows == []
