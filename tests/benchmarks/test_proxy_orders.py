"""Proposals of another model's order: how many of a batch are accepted."""

import math
from types import SimpleNamespace

import pytest

from benchmarks import proxy_orders


@pytest.fixture(autouse=True)
def settings(monkeypatch):
  """The flags' defaults, and texts that are all equally likely."""
  for flag in ("_BATCH", "_REGRET"):
    monkeypatch.setattr(
      proxy_orders, flag, SimpleNamespace(value=getattr(proxy_orders, flag).default)
    )
  monkeypatch.setattr(proxy_orders, "nlls_without", lambda *args: [1.0] * len(args[2]))
  monkeypatch.setattr(proxy_orders, "sizes_of", lambda pruned: (1,) * pruned.num_units)


@pytest.mark.parametrize("num_units", [18, 24, 63])
def test_one_model_as_both_accepts_whole_batches(num_units):
  order = list(range(num_units))[: num_units - num_units // 2]
  found = proxy_orders._compared(None, SimpleNamespace(num_units=num_units), order, order)
  assert found[:2] == [8, 1], "the last states have fewer left, which are no refusals"


def test_a_chain_shorter_than_a_batch_tells_nothing_of_it():
  order = list(range(7))
  found = proxy_orders._compared(None, SimpleNamespace(num_units=14), order, order)
  assert math.isnan(found[0])
  assert found[1] == 1
