"""Reports on screened searches, with what they should say worked out by hand."""

import numpy as np
import pytest

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.search.audit import audit_report, format_trust, prune_ranks, screen_report
from greedy_prune_jax.search.path import PrunePath


def _path(deleted, joint, unit_sizes=None, **fields):
  segments = Segments(*(np.zeros(size, np.int32) for size in (3, 6, 2)))
  nll = {"joint": joint, "answer": joint, "reasoning": joint}
  return PrunePath(segments, 2, unit_sizes, deleted=deleted, nll=nll, **fields)


def test_prune_ranks_of_tokens_and_of_units():
  assert prune_ranks(_path([4, 0, 2, 1], [])).tolist() == [1, 3, 2, 4, 0, 4]
  # Units of tokens 0-1, 2, 3-4 and 5.
  assert prune_ranks(_path([3, 4, 0, 1], [], (2, 1, 2, 1))).tolist() == [2, 2, 4, 0, 0, 4]


def test_tokens_of_a_run_share_a_rank():
  tally = {"steps": 2, "missed": 0, "lost": 0.0}
  path = _path([1, 2, 0, 4], [1.0, None, 1.2, None, 1.5], tally=tally)
  assert prune_ranks(path, by_runs=True).tolist() == [2, 0, 0, 4, 2, 4]
  other = _path([1, 2, 0, 4], [1.0, None, 1.2, 1.3, 1.5])
  assert audit_report(path, path, "joint", by_runs=True)["kendall"] == pytest.approx(1)
  assert audit_report(path, other, "joint", by_runs=True)["kendall"] < 1
  assert audit_report(path, other, "joint")["kendall"] == pytest.approx(1)


def test_an_audit_sets_two_paths_side_by_side():
  exact = _path([4, 0, 2, 1], [1.0, 1.0, 1.5, 2.0, 2.5], positions_scored=70, seconds=2.0)
  tally = {"steps": 4, "num_scored": 10, "squared_error": 0.4, "missed": 1, "lost": 0.2}
  tally["upsets"] = 3
  screened = _path([4, 2, 0, 1], [1.0, 1.0, 1.7, None, 2.7], tally=tally)
  report = audit_report(screened, exact, "joint")
  assert report["regret"] == pytest.approx(6.4 / 6.0 - 1)  # the third is not known on both sides
  assert report["same_winner"] == 0.75
  assert report["lost_per_step"] == pytest.approx(0.05)
  # Ranks 1 3 2 4 0 4 and 2 3 1 4 0 4: one pair of 15 has changed places, one is tied.
  assert report["kendall"] == pytest.approx((13 - 1) / 14)
  assert 0.9 < report["spearman"] < 1
  assert screen_report(screened) == {
    "scored_per_step": 2.5,
    "error": pytest.approx(0.2),
    "upsets": 0.3,
  }


def test_texts_of_words_are_beside_texts_of_as_many_tokens():
  units, tally = (2, 1, 2, 1), {"steps": 2, "missed": 1, "lost": 0.2}
  exact = _path([0, 1, 2], [1.0, 2.0, 3.0], units)
  screened = _path([2, 0, 1], [1.0, 1.2, 3.0], units, tally=tally)
  report = audit_report(screened, exact, "joint")
  assert report["regret"] == pytest.approx(5.2 / (1 + 1.5 + 3) - 1)


@pytest.mark.filterwarnings("error")
def test_ranks_that_do_not_vary_correlate_with_nothing():
  tally = {"steps": 1, "missed": 0, "lost": 0.0}
  exact = _path([0, 1, 2, 3, 4, 5], [1.0, 2.0], (6,))
  report = audit_report(_path([0, 1, 2, 3, 4, 5], [1.0, 2.0], (6,), tally=tally), exact, "joint")
  assert report["spearman"] is None
  assert report["kendall"] is None


def test_trust_is_told_with_and_without_audits():
  record = {"scored_per_step": 5.0, "error": 0.01, "upsets": 0.12}
  told = format_trust([record, record])
  assert "means over 2 chains: 5.0 exact" in told
  assert "12% of them too high by more" in told
  audit = {"regret": 0.01, "spearman": 0.9, "kendall": None, "same_winner": 0.5}
  told = format_trust([record, record | {"audit": audit}])
  assert "means over 1 of them: NLL regret 1.00%, Spearman 0.900" in told
