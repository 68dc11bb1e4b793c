"""Estimated cost of a run, against a count step by step, and against real models."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import prune
from greedy_prune_jax.accelerators import find_accelerator
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.distill.parameters import flat_params
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.hf_config import config_from_hf
from greedy_prune_jax.models.layouts import LAYOUTS, base_path
from greedy_prune_jax.models.parameters import abstract_model, parameter_name
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.parallel import device_bytes
from greedy_prune_jax.pruning.cost import positions_flops, ranking_work, search_work
from greedy_prune_jax.pruning.estimate import _kept_columns, weight_bytes
from greedy_prune_jax.pruning.run import search_settings
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.pruning.tasks import PruneTask
from greedy_prune_jax.search.capacity import placement_of
from greedy_prune_jax.search.host import SearchSettings, plan_program
from greedy_prune_jax.search.path import PrunePath
from tests.helpers.planted import tiny_model as planted_model
from tests.helpers.reference import FAMILIES, tiny_config, tiny_model

P, N, A, FLOOR = 9, 14, 4, 6
# Keys of the experts that a token takes, and of all: with one number for both it meets them all.
_CHOSEN = {"num_experts_per_tok", "top_k_experts", "num_experts", "num_local_experts"}


def path_of(unit_sizes=None, floor=FLOOR):
  segments = Segments(*(np.zeros(size, np.int32) for size in (P, N, A)))
  return PrunePath(segments, floor, unit_sizes)


def text_flops(config, start, length, scored):
  """A run of positions that see all before them, one by one."""
  seen = sum(start + offset + 1 for offset in range(length))
  return (
    2 * config.matmul_params(head=False) * length
    + 2 * config.vocab_size * config.model_dim * scored
    + 4 * config.num_layers * config.num_heads * config.head_dim * seen
  )


def counted_positions(sizes, rng):
  """Positions of an exact search whose deletions fall anywhere; see `exact.delete_units`."""
  sizes, positions = [*sizes], P + sum(sizes) + A - 1
  known = [0] * len(sizes)
  while sum(sizes) > FLOOR:
    behind = sum(sizes) + A - 1 - np.cumsum(sizes)
    positions += int((behind - known).sum())
    unit = int(rng.integers(len(sizes)))
    starts = np.cumsum([0, *sizes])
    start, gone = int(starts[unit]), sizes.pop(unit)
    before = int(starts[unit - 1]) if unit else start
    positions += sum(sizes) + A - 1 - (before - 1)
    known = [max(start - 1 - int(starts[u + 1]), 0) if u < unit else 0 for u in range(len(sizes))]
    assert gone
  return positions


@pytest.mark.parametrize("sizes", [(1,) * 60, (3, 1, 2, 4) * 10])
def test_the_expected_work_is_what_deletions_anywhere_take(sizes):
  config, search = planted_model().config, SearchSettings("joint", 256)
  segments = Segments(*(np.zeros(size, np.int32) for size in (P, sum(sizes), A)))
  path = PrunePath(segments, FLOOR, None if max(sizes) == 1 else sizes)
  work = search_work(config, path, search)
  rng = np.random.default_rng(0)
  counted = np.mean([counted_positions(sizes, rng) for _ in range(40)])
  assert work.positions == pytest.approx(counted, rel=0.05)
  assert work.flops > 2 * config.matmul_params(head=False) * work.positions


def test_short_convolutions_are_counted():
  config = config_from_hf(tiny_config("lfm2").to_dict())
  weights = flat_params(Model.from_decoder(Decoder(config, nnx.Rngs(0))).params)
  matrices = {name: x for name, x in weights.items() if name.startswith("layers.") and x.ndim > 2}
  filters = matrices.pop("layers.conv.filter")
  assert config.matmul_params(head=False) == sum(x.size for x in matrices.values())
  work = positions_flops(config, 1, 0, 0)
  assert work == 2 * (config.matmul_params(head=False) + filters.size)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_that_a_position_meets_is_counted(family):
  values = tiny_config(family).to_dict()
  config = config_from_hf(values | {key: 6 for key in _CHOSEN if values.get(key)})
  meets = 0
  for path, array in nnx.to_flat_state(abstract_model(config, "float32").params):
    name = parameter_name(path)
    is_matrix = len(LAYOUTS[base_path(name)].stored) > 1 and not name.endswith("_bias")
    if is_matrix and not name.endswith(("embedding", "head", "table", "filter")):
      meets += array.get_value().size
  assert config.matmul_params(head=False) == meets
  head = config.vocab_size * config.model_dim
  assert config.matmul_params(head=True) == meets + head


def test_a_ranking_is_its_passes_and_the_texts_along_its_path():
  config = planted_model().config
  texts = sum(text_flops(config, P, n + A - 1, n + A - 1) for n in range(FLOOR, N + 1))
  texts += text_flops(config, 0, P, 1)
  whole = text_flops(config, 0, P + N + A, P + N + A)
  for ranking, passes in [("random", 0), ("surprisal", 1), ("gradient", 3)]:
    work = ranking_work(config, path_of(), ranking)
    assert work.flops == pytest.approx(texts + passes * whole, rel=1e-9)
  along = ranking_work(config, path_of(), "random").positions
  # The prompt again, and the text without each unit but for its last token.
  found = ranking_work(config, path_of(), "answer_perplexity")
  assert found.positions == along + P + N * (N - 1 + A - 1)
  alone = text_flops(config, 0, P, 1) + N * text_flops(config, P, N + A - 2, N + A - 2)
  assert found.flops == pytest.approx(texts + alone, rel=1e-9)


@pytest.mark.parametrize(
  ("changes", "kept_bytes", "room"),
  [
    ({"search": "exact"}, 1e9, "all"),
    ({"search": "screened"}, 1e9, "all"),
    ({"search": "screened"}, 4e5, "some"),
    ({"search": "runs"}, 4e5, "some"),
    ({"search": "screened", "audit": 1}, 1e9, "all"),
    ({"ranking": "random"}, 1e9, "none"),
  ],
)
def test_the_columns_that_a_search_keeps_are_counted(changes, kept_bytes, room):
  model = planted_model()
  settings = PruneSettings.from_config(prune.get_config().to_dict() | changes)
  segments = Segments(*(np.zeros(size, np.int32) for size in (P, 90, A)))
  path = PrunePath(segments, FLOOR)
  task = PruneTask(Chain(id="c", question="q", reasoning="r", answer="a"), (), path)
  placement = placement_of(model)
  counted = _kept_columns(settings, model.config, [task], kept_bytes, 1, placement)
  search = search_settings(settings)._replace(kept_bytes=kept_bytes, block_positions=256)
  program = plan_program(model, [path], search)
  assert counted == (0 if room == "none" else program.kept)
  assert program.pooled == (room == "some")
  assert (counted > 0) == (room != "none")


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_weights_take_what_they_take_when_loaded(tmp_path, family):
  tiny_model(tiny_config(family, vocab_size=64)).save_pretrained(tmp_path)
  for dtype in ("float32", "bfloat16"):
    model = load_model(str(tmp_path), jnp.dtype(dtype))
    assert weight_bytes(model.config, dtype, 1) == device_bytes(model.params)
  config = model.config
  assert weight_bytes(config, "bfloat16", 2) < 0.6 * weight_bytes(config, "bfloat16", 1)
  with pytest.raises(UserError, match="cannot be split evenly over the mesh axis model of size 7"):
    weight_bytes(config, "bfloat16", 7)


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA H100 PCIe", "h100-pcie"),
    ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
    ("NVIDIA A100 80GB PCIe", "a100-80gb"),
    ("NVIDIA L4", "l4"),
    ("NVIDIA L40S", "l40s"),
    ("NVIDIA L40", None),
    ("TPU v5 lite", "tpu-v5e"),
    ("TPU v5", "tpu-v5p"),
    ("TPU v6 lite", "tpu-v6e"),
    ("cpu", None),
  ],
)
def test_accelerators_are_known_by_what_jax_calls_them(kind, name):
  assert find_accelerator(kind) == name
