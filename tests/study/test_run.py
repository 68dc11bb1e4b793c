"""Tables of what is done so far of a study, and the time that they may take."""

import types

from greedy_prune_jax.study import run
from greedy_prune_jax.study.run import at_most_a_share


def test_tables_take_their_share_of_the_time(monkeypatch):
  now, written = 0.0, []
  monkeypatch.setattr(run, "time", types.SimpleNamespace(monotonic=lambda: now))

  def write():
    nonlocal now
    written.append(now)
    now += 2  # seconds

  maybe = at_most_a_share(write, 0.1)
  for _ in range(10):
    maybe()
    now += 6
  # 18 s must pass between the end of one and the next, and parts take 6.
  assert written == [0, 20, 40, 60]
