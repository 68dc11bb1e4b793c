"""How many replies a model of ours writes at once."""

import jax
import pytest
from flax import nnx

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.parallel import MeshSettings, device_bytes, make_mesh, weight_shardings
from greedy_prune_jax.teachers import local

LENGTH = 100


def _model(mesh=None):
  config = ModelConfig(
    family="llama",
    vocab_size=64,
    model_dim=32,
    num_layers=2,
    num_heads=8,
    num_kv_heads=8,
    head_dim=4,
    mlp_dim=64,
    max_positions=256,
    norm_eps=1e-5,
    tied_head=True,
    attention_scale=0.5,
  )
  model = Model.from_decoder(Decoder(config, nnx.Rngs(0)))
  if mesh is None:
    return model
  places = weight_shardings(make_mesh(MeshSettings(data=mesh[0], model=mesh[1])))(model.params)
  return Model(config, model.graph, jax.device_put(model.params, places))


@pytest.mark.parametrize(
  ("mesh", "rows"), [(None, 16), ((8, 1), 8 * 16), ((4, 2), 4 * 32), ((1, 8), 128)]
)
def test_rows_are_counted_by_what_a_device_has_left(monkeypatch, mesh, rows):
  row = 2 * 2 * 2 * LENGTH * 8 * 4 * 4  # the cache twice, keys and values, 2 layers, float32
  free = 20 * row / local._MEMORY_SHARE
  model = _model(mesh)
  monkeypatch.setattr(local, "_device_memory", lambda: device_bytes(model.params) + free)
  assert local._rows_that_fit(model, LENGTH) == rows
