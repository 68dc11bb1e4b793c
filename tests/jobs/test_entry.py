"""What all jobs do with a workdir."""

import pytest

from greedy_prune_jax.jobs.entry import run_in_workdir


@pytest.mark.parametrize("failed", [0, 2])
def test_partial_results_stay_where_something_failed(tmp_path, failed):
  def work(workdir):
    workdir.write_unfinished("a", 1, {"order": [3]})
    return failed

  assert run_in_workdir(work, str(tmp_path), {}, output="pruned", may_change=()) == failed
  assert (tmp_path / "unfinished").exists() == bool(failed)
