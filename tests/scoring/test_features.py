import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.analysis import feature_store
from greedy_prune_jax.analysis.feature_store import build_store, open_store
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.forward import forward_hidden
from greedy_prune_jax.parallel import MeshSettings, make_mesh, weight_shardings
from greedy_prune_jax.runs.jsonl import JsonlWriter
from greedy_prune_jax.scoring import features
from greedy_prune_jax.scoring.features import extract_features, token_features
from tests.helpers.planted import on_mesh, random_segments, tiny_model


def slow_features(model, chain):
  """The definition, token by token, from every layer's whole attention."""
  ids = jnp.asarray(np.concatenate([chain.prompt, chain.reasoning, chain.answer]))
  decoder = model.decoder
  hidden, _, probs = forward_hidden(decoder, ids, return_attention=True)
  log_probs = np.asarray(jax.nn.log_softmax(decoder.logits(hidden)))
  probs = np.asarray(probs, np.float64)  # [L, N, T, T]
  begin = len(chain.prompt)
  end = begin + len(chain.reasoning)
  attention, surprisal = [], []
  for t in range(begin, end):
    from_answer = probs[:, :, end + chain.closing[1] :, t]
    from_closing = probs[:, :, end + chain.closing[0] : end + chain.closing[1], t]
    if chain.closing == (0, 0):
      from_closing = np.zeros((*probs.shape[:2], 1))
    from_later = probs[:, :, t + 1 : end, t]
    if t + 1 == end:
      from_later = np.zeros((*probs.shape[:2], 1))
    own = probs[:, :, t, : t + 1]
    attention.append(
      np.stack(
        [
          from_answer.mean(-1),
          from_answer.max(-1),
          from_later.mean(-1),
          from_later.max(-1),
          from_closing.mean(-1),
          from_closing.max(-1),
          -(own * np.log(np.maximum(own, 1e-300))).sum(-1),
        ],
        axis=-1,
      )
    )
    surprisal.append(-log_probs[t - 1, int(ids[t])])
  return np.array(attention), np.array(surprisal)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("changes", "block"),
  [
    ({}, 64),
    ({"layer_window": (4, 2**30), "attention_softcap": 3.0}, 8),
    ({"attention_sinks": True}, 8),
  ],
)
def test_features_are_those_of_the_definition_in_padded_batches(monkeypatch, changes, block):
  monkeypatch.setattr(features, "_BLOCK", block)  # of 8: queries attend in several blocks
  model = tiny_model(**changes)
  chains = random_segments(3)
  answer = np.arange(9, dtype=np.int32)
  chains[1] = dataclasses.replace(chains[1], answer=answer, closing=(1, 4))  # of a thinking
  found = extract_features(model, chains, batch_size=4)
  for chain, (attention, surprisal) in zip(chains, found, strict=True):
    slow_attention, slow_surprisal = slow_features(model, chain)
    np.testing.assert_allclose(attention, slow_attention, atol=2e-5)
    np.testing.assert_allclose(surprisal, slow_surprisal, atol=1e-4)
  # The heads differ by far more than the tolerance, so that mixing them up would be seen.
  assert np.ptp(found[0][0], axis=(1, 2)).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1), (4, 2), (1, 8)])
def test_any_mesh_agrees_with_one_device(tmp_path, monkeypatch, mesh):
  model = tiny_model(num_heads=8, num_kv_heads=8)
  data, split = mesh
  spread = on_mesh(model, weight_shardings(make_mesh(MeshSettings(data=data, model=split))))
  chains = random_segments(5)  # they fill no batch of several rows
  extracted = []

  def watched(*args, **kwargs):
    extracted.append(token_features(*args, **kwargs).attention)
    return token_features(*args, **kwargs)

  monkeypatch.setattr(features, "token_features", watched)
  ids = [f"c/{i}" for i in range(5)]
  one = build_store(
    tmp_path / "one", model, ids, chains, pruner="tiny", dtype="float32", batch_positions=200
  )
  extracted.clear()
  many = build_store(
    tmp_path / "many", spread, ids, chains, pruner="tiny", dtype="float32", batch_positions=200
  )
  np.testing.assert_allclose(many.attention, one.attention, atol=2e-5)
  np.testing.assert_allclose(many.surprisal, one.surprisal, atol=1e-4)
  for whole in extracted:
    size, num_tokens, num_layers, num_heads, num_statistics = whole.shape
    own = (size // data, num_tokens, num_layers, num_heads // split, num_statistics)
    assert whole.sharding.shard_shape(whole.shape) == own


@pytest.mark.slow
def test_a_store_holds_each_chain_at_its_rows(tmp_path):
  model, chains = tiny_model(), random_segments(5)
  ids = [f"c/{i}" for i in range(5)]
  store = build_store(
    tmp_path, model, ids, chains, pruner="tiny", dtype="float16", batch_positions=90
  )
  assert store.ids == tuple(ids)
  assert isinstance(store.attention, np.memmap)
  assert store.attention.dtype == np.float16
  for i, chain in enumerate(chains):
    ((attention, surprisal),) = extract_features(model, [chain], batch_size=1)
    np.testing.assert_allclose(store.attention[store.rows(i)], attention, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(store.surprisal[store.rows(i)], surprisal, atol=1e-4)


def test_a_killed_extraction_goes_on_where_it_was(tmp_path, monkeypatch):
  model, chains = tiny_model(), random_segments(6)
  ids = [f"c/{i}" for i in range(6)]
  whole = build_store(tmp_path / "whole", model, ids, chains, pruner="tiny", batch_positions=60)

  calls = []

  def extract(model, segments, **settings):
    calls.append(len(segments))
    if len(calls) == 2:
      raise KeyboardInterrupt
    return extract_features(model, segments, **settings)

  monkeypatch.setattr(feature_store, "extract_features", extract)
  with pytest.raises(KeyboardInterrupt):
    build_store(tmp_path / "killed", model, ids, chains, pruner="tiny", batch_positions=60)
  resumed = build_store(tmp_path / "killed", model, ids, chains, pruner="tiny", batch_positions=60)
  assert sum(calls) == 6 + calls[1]  # only the interrupted batch ran twice
  np.testing.assert_array_equal(resumed.attention, whole.attention)
  calls.clear()
  build_store(tmp_path / "killed", model, ids, chains, pruner="tiny", batch_positions=60)
  assert calls == []


def test_a_store_of_other_chains_is_refused(tmp_path):
  model, chains = tiny_model(), random_segments(2)
  build_store(tmp_path, model, ["a", "b"], chains, pruner="tiny")
  with pytest.raises(UserError, match="features of other chains"):
    build_store(tmp_path, model, ["a", "c"], chains, pruner="tiny")
  with pytest.raises(UserError, match="by another pruner or of another form; remove it"):
    build_store(tmp_path, model, ["a", "b"], chains, pruner="another")
  asked_otherwise = [dataclasses.replace(chain, prompt=chain.prompt[1:]) for chain in chains]
  with pytest.raises(UserError, match="features of other chains"):
    build_store(tmp_path, model, ["a", "b"], asked_otherwise, pruner="tiny")
  with pytest.raises(UserError, match="feature_dtype='int8'; expected one of float16, float32"):
    build_store(tmp_path, model, ["a", "b"], chains, pruner="tiny", dtype="int8")
  with pytest.raises(UserError, match=r"cannot read .*index\.json"):
    open_store(tmp_path / "nowhere")


def test_a_torn_line_of_the_progress_is_done_again(tmp_path):
  model, chains = tiny_model(), random_segments(2)
  store = build_store(tmp_path, model, ["a", "b"], chains, pruner="tiny")
  expected = np.array(store.attention)
  done = tmp_path / "done.jsonl"
  done.write_bytes(done.read_bytes()[:-5])
  JsonlWriter(done).close()  # cuts the torn line off, as the next run does
  assert len(done.read_text().splitlines()) == 1
  again = build_store(tmp_path, model, ["a", "b"], chains, pruner="tiny")
  np.testing.assert_allclose(again.attention, expected, rtol=1e-3)
