"""The prune job with a screened search: its records and its audit; test_resume.py kills one."""

import itertools

import pytest

from tests.helpers.tiny_runs import records

SCREENED = {
  "search": "screened",
  "screen.window": 3,
  "screen.margin": 0.05,
  "keep_ratios": "(0.8,0.3)",
}


@pytest.mark.slow
def test_records_say_how_far_to_trust_them(run, tmp_path):
  job = run(**SCREENED, audit=1)
  exact = run(workdir="exact", keep_ratios="(0.8,0.3)")
  assert "screened" not in exact.stdout
  first, *others = records(tmp_path / "run").values()
  assert first["search"] == "screened"
  audit = first["trust"]["audit"]
  assert 0 <= audit["same_winner"] <= 1
  assert -1 <= audit["spearman"] <= 1
  assert others
  for record in others:
    assert set(record["trust"]) == {"scored_per_step", "error", "upsets"}
    assert 0 < record["trust"]["scored_per_step"] <= 16
  by_id = records(tmp_path / "exact")
  assert "trust" not in by_id[first["id"]]
  assert audit["positions_exact"] == by_id[first["id"]]["positions_scored"]
  assert "beside exact search, means over 1 of them" in job.stdout


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"search": "screened", "screen.window": 0}, "window=0; expected 1 or more"),
    ({"audit": 2}, "audit=2: it sets a search that estimates beside an exact one"),
    ({"search": "runs", "deletions_per_step": 2}, "deletions_per_step=2 with search=runs"),
    ({"search": "screened", "max_runs": 2}, "max_runs=2 with search=screened"),
    ({"deletions_per_step": 0}, "deletions_per_step=0; expected 1 or more"),
    ({"search": "guess"}, "search='guess'; expected one of exact, screened, runs"),
  ],
)
def test_settings_that_cannot_be(start, settings, message):
  job = start(**settings)
  assert job.wait() == 1
  assert message in job.stderr
  assert "Traceback" not in job.stderr


@pytest.mark.slow
def test_runs_of_words_are_recorded_and_read_again(run, tmp_path):
  for _ in range(2):
    run(**SCREENED | {"search": "runs"}, unit="word", max_runs=4)
  for record in records(tmp_path / "run").values():
    assert sum(record["move_sizes"]) == len(record["deletion_order"])
    assert (
      len(record["nll"]["joint"]) < len(record["deletion_order"]) + 1
    )  # words of several tokens
    starts = {0, *itertools.accumulate(record["unit_sizes"])}
    moves = [0, *itertools.accumulate(record["move_sizes"])]
    assert {record["deletion_order"][at] for at in moves[:-1]} <= starts


@pytest.mark.slow
def test_runs_leave_at_once_and_reach_each_ratio_exactly(run, tmp_path):
  run(**SCREENED | {"search": "runs"}, audit=1)
  first, *others = records(tmp_path / "run").values()
  assert first["trust"]["audit"]["positions_exact"] > 0
  for record in (first, *others):
    assert record["search"] == "runs"
    assert sum(record["move_sizes"]) == len(record["deletion_order"])
    scored = {0, *itertools.accumulate(record["move_sizes"])}
    n, nll = len(record["reasoning_ids"]), record["nll"]["joint"]
    assert {k for k, value in enumerate(nll) if value is not None} == scored
    assert {n - int(n * ratio) for ratio in (0.8, 0.3)} <= scored
    ends = [*sorted(scored)]
    for begin, end in itertools.pairwise(ends):  # a run of what was left
      left = sorted(set(range(n)) - set(record["deletion_order"][:begin]))
      run_of = record["deletion_order"][begin:end]
      at = left.index(run_of[0])
      assert left[at : at + len(run_of)] == run_of


@pytest.mark.slow
def test_several_deletions_leave_nlls_open(run, tmp_path):
  run(**SCREENED, deletions_per_step=4)
  for record in records(tmp_path / "run").values():
    n, nll = len(record["reasoning_ids"]), record["nll"]["joint"]
    assert len(nll) == len(record["deletion_order"]) + 1
    assert None in nll
    for ratio in (1.0, 0.8, 0.3):
      assert nll[n - int(n * ratio)] is not None
