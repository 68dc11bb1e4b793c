"""Random small chains through the naive oracle and every search, several chains a batch."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.parallel import MeshSettings, make_mesh, weight_shardings
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings
from tests.helpers.full_passes import full_pass_search, random_segments
from tests.helpers.reference import tiny_config, tiny_model

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
# Windows that reach the end of every chain: exact again.
EVERYTHING = ScreenSettings(window=24, margin=0.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A tiny model, some layers of which see 5 tokens: in transformers, alone, and on a mesh."""
  reference = tiny_model(tiny_config("gemma3_text", **HEADS))
  folder = tmp_path_factory.mktemp("model")
  reference.save_pretrained(folder)
  choose = weight_shardings(make_mesh(MeshSettings(data=2, model=2)))
  one = load_model(str(folder), jnp.float32)
  return reference.float(), one, load_model(str(folder), jnp.float32, shardings=choose)


def _random_path(rng: np.random.Generator, longest_unit: int) -> PrunePath:
  """A chain of 1 to 12 reasoning tokens, with an answer from 1 token on; units up to a length."""
  num_reasoning = int(rng.integers(1, 13))
  shape = (int(rng.integers(1, 20)), num_reasoning, int(rng.integers(1, 6)))
  segments = random_segments(int(rng.integers(2**31)), HEADS["vocab_size"], shape)
  sizes, left = [], num_reasoning
  while left:
    sizes.append(int(rng.integers(1, min(longest_unit, left) + 1)))
    left -= sizes[-1]
  unit_sizes = tuple(sizes) if longest_unit > 1 else None
  return PrunePath(segments, floor=int(rng.integers(num_reasoning)), unit_sizes=unit_sizes)


def _nlls(path: PrunePath, name: str) -> np.ndarray:
  return np.array(path.nll[name], float)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize(("seed", "longest_unit"), [(0, 1), (1, 1), (2, 4)])
def test_every_search_equals_the_oracle(models, objective, seed, longest_unit):
  reference, one_device, mesh = models
  rng = np.random.default_rng(seed)
  paths = [_random_path(rng, longest_unit) for _ in range(5)]
  oracles = [
    full_pass_search(reference, path.segments, objective, path.floor, path.unit_sizes)
    for path in paths
  ]
  exact = SearchSettings(objective=objective, block_positions=48)
  searches = [
    (one_device, exact),
    (mesh, exact),
    (one_device, exact._replace(seconds_between_reports=0.0)),
    (one_device, exact._replace(screen=EVERYTHING)),
  ]
  for model, settings in searches:
    for path, oracle in zip(prune_paths(model, paths, settings), oracles, strict=True):
      assert min(oracle.gaps) > 1e-5  # else the order would hang on rounding
      assert list(path.deleted) == oracle.deleted
      np.testing.assert_allclose(_nlls(path, "joint"), oracle.joint, atol=2e-5)
      np.testing.assert_allclose(_nlls(path, "answer"), oracle.answer, atol=2e-5)


@pytest.mark.slow
def test_a_window_shorter_than_units_deletes_all_the_same(models):
  """Estimates may miss winners; the NLLs are those of the texts that remain, whatever they are."""
  _, model, _ = models
  rng = np.random.default_rng(3)
  paths = [_random_path(rng, 6) for _ in range(4)]
  screen = ScreenSettings(window=1, margin=0.1)
  screened = SearchSettings(objective="joint", block_positions=48, screen=screen)
  for path in prune_paths(model, paths, screened):
    assert len(path.kept) <= path.floor
    assert sorted([*path.deleted, *path.kept]) == list(range(len(path.segments.reasoning)))
    whole = dataclasses.replace(path.segments, reasoning=path.segments.reasoning[path.kept])
    alone = PrunePath(whole, floor=len(path.kept))
    [alone] = prune_paths(model, [alone], SearchSettings("joint", 48))
    for name in ("joint", "answer"):
      np.testing.assert_allclose(_nlls(path, name)[-1], _nlls(alone, name)[0], atol=2e-5)
