"""Attention of a block's slots, in tiles and by the kernel, against each slot's whole text."""

import re
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.attention import attend_masked
from greedy_prune_jax.models.forward import KeyValues
from greedy_prune_jax.models.weights import bfloat16_as_uint16
from greedy_prune_jax.parallel import DATA, SEQUENCE, SearchMeshSettings, make_mesh, on_mesh
from greedy_prune_jax.scoring import cascade_kernel
from greedy_prune_jax.scoring.cascade_kernel import attend_cascade
from greedy_prune_jax.scoring.stream import (
  Text,
  block_slots,
  lay_out,
  suffix_lengths,
)
from greedy_prune_jax.scoring.tiles import attend_tiles
from tests.helpers.spans import candidate_spans, text_spans, window_spans

KV_HEADS, GROUPS, LAYERS = 2, 3, 2
PLACES, KEPT = 256, 512
EVERYTHING = 2**30
TILES = ("tiles", "tile by tile", "wide tiles")


def _texts():
  """Three chains of unlike length; units of one token and of several."""
  units = np.zeros((3, 64), np.int32)
  units[0, :40] = 1
  units[1, :5] = (3, 1, 7, 1, 2)
  units[2, :50] = 3
  return Text(
    jnp.zeros((3, PLACES), jnp.int32),
    *(jnp.array(x) for x in ((9, 1, 60), (40, 14, 150), (4, 1, 3))),
    unit_sizes=jnp.asarray(units),
    num_units=jnp.array((40, 5, 50)),
    width=jnp.ones(3, jnp.int32),
  )


def _slots(spans_of, first, size, tile):
  """Slots of the block that begins at `first`."""
  texts = _texts()
  unit = jnp.arange(64)[None, :]
  wanted = (unit < texts.num_units[:, None]) & (unit % 3 != 1)
  lengths = suffix_lengths(texts)
  tail = 0
  if spans_of == "texts":
    spans = text_spans(texts, jnp.array((5, 0, 130)), jnp.array((True, True, True)))
  elif spans_of == "suffixes":
    spans = candidate_spans(texts, jnp.maximum(lengths // 2 - 3, 0), wanted)
  else:
    tail = 6
    spans = window_spans(texts, wanted, tail, tail=True)
  offsets = (unit * 5 + jnp.array([[0], [2], [9]])) % (KEPT - PLACES)
  layout = lay_out(spans, tile)
  assert layout.total > first
  return texts, block_slots(texts, spans, layout, offsets, jnp.int32(first), size, tail)


def _inputs(spans_of, first, size, tile, head_dim=16, dtype=jnp.float32):
  generator = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(generator.normal(size=shape), dtype)

  def keys_values(*shape):
    return KeyValues(*(normal(*shape, KV_HEADS, head_dim) for _ in range(2)))

  texts, slots = _slots(spans_of, first, size, tile)
  q = normal(size, KV_HEADS * GROUPS, head_dim).astype(jnp.float32) / head_dim**0.5
  caches = (keys_values(LAYERS, 3, n) for n in (PLACES, KEPT))
  text, kept = (KeyValues(*(_between_nans(x.reshape(*x.shape[:3], -1)) for x in c)) for c in caches)
  return q, keys_values(size), text, kept, jnp.int32(1), slots, texts.answer_start - 1


def _between_nans(cache):
  """The last layer between two of NaNs: what is read of another layer shows."""
  nans = jnp.full_like(cache[:1], jnp.nan)
  return jnp.concatenate([nans, cache[1:], nans])


def _attend(form, inputs, window, tile, softcap, sinks=None):
  """`form` is tiles, side by side or one by one, or a platform of the kernel.

  In wide tiles only keys of the texts are met; those of candidates in half of them.
  """
  *inputs, slots, text_ends = inputs
  attend = partial(attend_cascade, platform=form, interpret=True)
  if "tile" in form:
    attend = partial(attend_tiles, text_tile=tile, tile_by_tile=form != "tiles")
    tile = tile // 2 if form == "wide tiles" else tile
  attend = jax.jit(partial(attend, tile=tile, softcap=softcap, sinks=sinks))
  return np.asarray(attend(*inputs, jnp.int32(window), slots, text_ends))


def _one_by_one(inputs, window, softcap, sinks=None):
  """Slot by slot, over all keys, under a mask that is read off the description of `Slots`."""
  q, own, text, kept, layer, slots, text_ends = inputs
  slots = jax.tree.map(np.asarray, slots)
  out = []
  for i, chain in enumerate(slots.chain):
    keys, values = (
      jnp.concatenate([*(x[layer, chain].reshape(-1, *z.shape[1:]) for x in (text, kept)), z])
      for text, kept, z in zip(text, kept, own, strict=True)
    )
    place, column, slot = np.arange(PLACES), np.arange(KEPT), np.arange(len(slots.chain))
    column -= slots.kept_start[i]
    of_column = slots.visible[i] + column + slots.jump[i] * (column >= slots.tail[i])
    resumed = (place >= slots.resume[i]) & (place < text_ends[chain])
    seen = [
      (place < slots.visible[i]) | resumed,
      (column >= 0) & (np.arange(KEPT) < slots.kept_stop[i]),
      (slot >= slots.begin[i]) & (slot <= i),
    ]
    places = np.concatenate([place, of_column, slots.position])
    mask = np.concatenate(seen) & (slots.position[i] - places < window)
    mask = jnp.asarray(mask[None])
    out.append(attend_masked(q[i : i + 1], keys, values, mask, softcap, sinks)[0][0])
  return jnp.stack(out)


CASES = [
  ("suffixes", 128, 128, 32, EVERYTHING, None),
  ("suffixes", 1152, 256, 128, 37, 5.0),  # a window shorter than a suffix, and a soft cap
  ("suffixes", 32, 48, 16, EVERYTHING, None),  # less than a block of keys
  ("tails", 256, 256, 32, EVERYTHING, None),
  ("tails", 0, 128, 32, 9, None),
  ("texts", 0, 256, 32, EVERYTHING, 5.0),
  ("texts", 64, 128, 64, 20, None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("spans_of", "first", "size", "tile", "window", "softcap"), CASES)
def test_each_slot_sees_its_whole_text(spans_of, first, size, tile, window, softcap):
  inputs = _inputs(spans_of, first, size, tile)
  slots = inputs[-2]
  valid = np.asarray(slots.valid)
  assert valid.any()
  expected = _one_by_one(inputs, window, softcap)
  for form in (*TILES, "gpu", "tpu"):
    found = _attend(form, inputs, window, tile, softcap)
    np.testing.assert_allclose(found[valid], expected[valid], atol=2e-6, err_msg=form)
    assert not found[~valid].any()


@pytest.mark.slow
@pytest.mark.parametrize("window", [EVERYTHING, 9])
@pytest.mark.parametrize("spans_of", ["suffixes", "tails"])
def test_a_sink_counts_once_beside_prefix_and_suffix(spans_of, window):
  inputs = _inputs(spans_of, 128, 128, 32)
  valid = np.asarray(inputs[-2].valid)
  sinks = jnp.array((-4.0, 0.0, 1.0, 2.0, 4.0, 90.0))  # of no weight, to all of it
  expected = _one_by_one(inputs, window, None, sinks)
  assert np.abs(expected[valid] - _one_by_one(inputs, window, None)[valid]).mean() > 0.02
  for form in (*TILES, "gpu", "tpu"):
    found = _attend(form, inputs, window, 32, None, sinks)
    np.testing.assert_allclose(found[valid], expected[valid], atol=2e-6, err_msg=form)


@pytest.mark.slow
@pytest.mark.parametrize("form", [*TILES, "gpu", "tpu"])
def test_a_nan_stays_with_its_chain(form):
  q, own, *inputs, slots, text_ends = _inputs("texts", 0, 256, 32)
  good = slots.valid & (slots.chain == 1)
  others = ~good
  assert others[: good.argmax()].any()
  assert others[good.argmax() :].any()
  expected = _attend(form, (q, own, *inputs, slots, text_ends), EVERYTHING, 32, None)
  own = KeyValues(*(jnp.where(good[:, None, None], x, jnp.nan) for x in own))
  found = _attend(form, (q, own, *inputs, slots, text_ends), EVERYTHING, 32, None)
  np.testing.assert_array_equal(found[good], expected[good])


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [64, 96, 100, 128, 256])
def test_heads_of_any_width(head_dim):
  """Those that are no power of two are padded on a GPU."""
  inputs = _inputs("suffixes", 128, 64, 32, head_dim)
  expected = _attend("tiles", inputs, EVERYTHING, 32, 30.0)
  for form in ("gpu", "tpu"):
    found = _attend(form, inputs, EVERYTHING, 32, 30.0)
    np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=form)


def test_a_tpu_program_takes_heads_that_fill_lanes_and_fit():
  assert cascade_kernel.heads_together(3, 64, 384, 2) == 3  # SmolLM2-135M
  assert cascade_kernel.heads_together(8, 128, 512, 2) == 8  # Llama-3.1-8B
  assert cascade_kernel.heads_together(8, 128, 512, 4) == 4
  assert cascade_kernel.heads_together(32, 64, 128, 2) == 8  # no group
  assert cascade_kernel.heads_together(6, 64, 1024, 4) == 2  # two heads of 64 fill the lanes
  assert cascade_kernel.heads_together(1, 256, 4096, 2) == 1  # whatever it takes


@pytest.mark.slow
def test_heads_of_several_programs(monkeypatch):
  inputs = _inputs("suffixes", 128, 64, 32, 128)
  expected = _attend("tpu", inputs, EVERYTHING, 32, None)
  monkeypatch.setattr(cascade_kernel, "heads_together", lambda *_: 1)
  np.testing.assert_array_equal(_attend("tpu", inputs, EVERYTHING, 32, None), expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", [*TILES, "cpu", "gpu", "tpu"])
def test_bfloat16_keys_round_operands_alone(form):
  *inputs, slots, text_ends = _inputs("tails", 256, 64, 32, 64, jnp.bfloat16)
  exact = jax.tree.map(lambda x: x.astype(jnp.float32) if x.ndim > 1 else x, inputs)
  exact = _attend("tiles", [*exact, slots, text_ends], EVERYTHING, 32, None)
  if form in ("tiles", "wide tiles", "cpu"):  # as bits, as caches lie on a CPU
    inputs[2:4] = bfloat16_as_uint16(inputs[2:4], "cpu")
  found = _attend(form, [*inputs, slots, text_ends], EVERYTHING, 32, None)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, exact, atol=0.02)
  assert np.abs(found - exact).max() > 1e-6


_H100 = jax.sharding.AbstractMesh(
  (),
  (),
  abstract_device=jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu"),
)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("platform", "lowering"), [("gpu", "cuda"), ("tpu", "tpu")])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_it_lowers_for_accelerators(platform, lowering, dtype, with_sinks):
  *inputs, slots, text_ends = _inputs("suffixes", 128, 256, 128, 128, dtype)
  sinks = jnp.zeros(KV_HEADS * GROUPS) if with_sinks else None
  attend = partial(attend_cascade, tile=128, softcap=5.0, platform=platform, sinks=sinks)
  with jax.sharding.use_abstract_mesh(_H100):  # jax 0.11 and later asks a device for its kind
    traced = jax.jit(attend).trace(*inputs, jnp.int32(9), slots, text_ends)
    assert "custom_call" in traced.lower(lowering_platforms=(lowering,)).as_text()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("platform", "lowering", "result"), [("gpu", "cuda", "2x1x384x128"), ("tpu", "tpu", "256x384")]
)
def test_on_a_mesh_each_device_runs_it_on_its_own_heads(platform, lowering, result):
  *inputs, slots, text_ends = _inputs("suffixes", 128, 256, 128, 128)
  mesh = make_mesh(SearchMeshSettings(data=2, sequence=1, model=2))
  if platform == "gpu":
    mesh = mesh.abstract_mesh.update(abstract_device=_H100.abstract_device)
  attend = partial(attend_cascade, tile=128, softcap=None, platform=platform)
  attend = on_mesh(attend, mesh, P(), P(), (DATA, SEQUENCE))
  traced = jax.jit(attend).trace(*inputs, jnp.int32(9), slots, text_ends)
  text = traced.lower(lowering_platforms=(lowering,)).as_text()
  # Three of six heads.
  assert re.search(rf"custom_call .*-> tensor<{result}xf32>", text)


def test_a_jax_without_triton_is_told_so(monkeypatch):
  """JAX 0.11 deprecates Pallas' Triton; only the kernel for GPUs may ask for it."""
  monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
  inputs = _inputs("suffixes", 128, 64, 32)
  with pytest.raises(UserError, match=f"jax {jax.__version__} does not have; set attention=xla"):
    _attend("gpu", inputs, EVERYTHING, 32, None)
