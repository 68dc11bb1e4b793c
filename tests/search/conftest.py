"""Tiny models, and races whose candidates come to their ends in several parts."""

import jax
import jax.numpy as jnp
import pytest

from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.scoring import racing
from tests.helpers.reference import tiny_config, tiny_model


@pytest.fixture(scope="module", autouse=True)
def short_parts():
  """Chains of a few tokens have candidates that come to their ends in several rounds."""
  jax.clear_caches()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(racing, "_FIRST_PART", 4)
    yield


@pytest.fixture(scope="module")
def reference():
  return tiny_model(tiny_config("llama")).float()


@pytest.fixture(scope="module")
def model(reference, tmp_path_factory):
  folder = tmp_path_factory.mktemp("llama")
  reference.save_pretrained(folder)
  return load_model(str(folder), jnp.float32)
