"""Ids under which a workdir keeps unfinished searches."""

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.pruning.tasks import audit_id
from greedy_prune_jax.runs.jsonl import encode_line, parse_line


def test_an_audits_id_is_no_chains():
  """A chain's unfinished search would be taken for the audit of another."""
  chain = Chain(id="c", question="q", reasoning="r", answer="a")
  assert audit_id(chain) != audit_id(Chain(id="d", question="q", reasoning="r", answer="a"))
  assert not audit_id(chain).isprintable()
  record = {"id": audit_id(chain)}
  assert parse_line(encode_line(record)) == record
