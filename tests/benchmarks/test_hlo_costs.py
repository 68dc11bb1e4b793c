"""Costs read from compiled programs, against costs known by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.hlo_costs import read_costs
from benchmarks.hlo_text import ArrayShape

N, LAYERS = 64, 7


def hlo(function, *shapes, dtype=jnp.float32):
  arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  return jax.jit(function).lower(*arguments).compile().as_text()


def scanned(x, weights):
  return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def test_a_scan_counts_every_layer():
  costs = read_costs(hlo(scanned, (N, N), (LAYERS, N, N)))
  assert costs.flops == LAYERS * 2 * N**3
  assert not costs.unknown_loops
  # Each layer reads its slice of the weights, and not all of them.
  assert LAYERS * 3 * N * N * 4 <= costs.num_bytes <= LAYERS * 12 * N * N * 4


def test_a_loop_without_a_bound_is_asked_for_and_reported():
  def halved(x, w):
    return jax.lax.while_loop(lambda x: x[0, 0] > 1, lambda x: x @ w, x)

  text = hlo(halved, (N, N), (N, N))
  once = read_costs(text)
  assert once.flops == 2 * N**3
  assert len(once.unknown_loops) == 1
  told = read_costs(text, lambda source, depth: 5 if depth == 0 and "while" in source else None)
  assert told.flops == 5 * 2 * N**3
  assert not told.unknown_loops


def test_a_contraction_over_two_axes():
  costs = read_costs(
    hlo(lambda a, b: jnp.einsum("btnh,nhd->btd", a, b), (2, 8, 4, 16), (4, 16, 32))
  )
  assert costs.flops == 2 * (2 * 8) * (4 * 16) * 32


def test_collectives_of_a_sharded_product():
  mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.NamedSharding
  p = jax.sharding.PartitionSpec
  a = jax.ShapeDtypeStruct((N, N), jnp.float32, sharding=spec(mesh, p(None, "model")))
  b = jax.ShapeDtypeStruct((N, N), jnp.float32, sharding=spec(mesh, p("model", None)))
  product = jax.jit(lambda a, b: a @ b, out_shardings=spec(mesh, p()))
  costs = read_costs(product.lower(a, b).compile().as_text())
  assert costs.flops == 2 * N**3 / 8
  assert costs.collectives() == {("all-reduce", "f32"): (1.0, N * N * 4.0)}


def test_the_roof_takes_the_slower_of_products_and_memory():
  costs = read_costs(hlo(lambda a, b: a @ b, (N, N), (N, N)))
  assert costs.roof_seconds(1e12, 1e30) == pytest.approx(2 * N**3 / 1e12)
  assert costs.roof_seconds(1e30, 1e9) == pytest.approx(costs.num_bytes / 1e9)
  assert costs.best_share(1e12, 1e30) == pytest.approx(1.0)


def test_what_a_call_does_once_can_be_left_out():
  text = hlo(lambda x, w: scanned(x @ x, w) @ x, (N, N), (LAYERS, N, N))
  whole, loops = read_costs(text), read_costs(text, outside_loops=0.0)
  assert whole.flops == 2 * (LAYERS + 2) * N**3
  assert loops.flops == 2 * LAYERS * N**3
  assert 0 < loops.num_bytes < whole.num_bytes


def test_costs_by_cause_leave_nothing_out():
  costs = read_costs(hlo(scanned, (N, N), (LAYERS, N, N)))
  wanted = [("layers", "tanh|dot_general|while"), ("copies", "^copy")]
  causes = costs.by_cause(wanted, lambda kernel: kernel.num_bytes)
  assert sum(causes.values()) == pytest.approx(costs.num_bytes)
  assert causes["layers"] > 0.5 * costs.num_bytes
  seconds = costs.by_cause(wanted, lambda kernel: kernel.seconds(1e12, 1e9))
  assert sum(seconds.values()) == pytest.approx(costs.roof_seconds(1e12, 1e9))


def test_a_kernel_of_ours_costs_what_its_caller_reckons():
  at = 'metadata={op_name="jit(f)/attend/pallas_call"}'
  text = f"""HloModule jit_f
ENTRY %main (x: f32[64,64]) -> f32[64,64] {{
  %x = f32[64,64]{{1,0}} parameter(0)
  ROOT %k = f32[64,64]{{1,0}} custom-call(%x), custom_call_target="__gpu$xla.gpu.triton", {at}
}}
"""
  assert read_costs(text).num_bytes == 2 * N * N * 4  # all of what it is given
  costs = read_costs(text, kernel_costs=(12.0, 34.0))
  assert (costs.flops, costs.num_bytes) == (12, 34)
  other = read_costs(text.replace("pallas_call", "cholesky"), kernel_costs=(12.0, 34.0))
  assert other.num_bytes == 2 * N * N * 4


def test_a_slice_that_is_fetched_meanwhile_costs_what_it_is():
  text = """HloModule jit_f
ENTRY %main (x: s8[4096]) -> s8[512] {
  %x = s8[4096]{0} parameter(0)
  %s = ((s8[4096]{0}), s8[512]{0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[512:1024]}
  ROOT %d = s8[512]{0:S(1)} slice-done(%s)
}
"""
  assert read_costs(text).num_bytes == 512  # read, and written on the chip
  assert read_costs(text.replace("S(1)", "S(0)")).num_bytes == 2 * 512


def test_tiles_pad_and_vector_memory_is_free():
  tiled = ArrayShape("bf16", (3, 100), "1,0:T(8,128)(2,1)")
  assert tiled.num_bytes == 8 * 128 * 2
  assert ArrayShape("bf16", (3, 100), "1,0:T(8,128)(2,1)S(1)").num_bytes == 0
  assert ArrayShape("s4", (4, 2), "1,0").num_bytes == 4
