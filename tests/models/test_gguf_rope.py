"""Ropes of GGUF files: divisors of frequencies, and their own words for scaling."""

import dataclasses

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.gguf import gguf_config
from greedy_prune_jax.models.gguf_file import GgufFile
from greedy_prune_jax.models.hf_config_writer import config_to_hf
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.models.rope import rope_frequencies
from tests.helpers.gguf_files import write_gguf
from tests.helpers.reference import (
  tiny_config,
  tiny_model,
)


def test_llama3_rope_comes_as_divisors(tmp_path):
  rope = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 100.0,
  }
  reference = tiny_model(tiny_config("llama", rope_parameters=rope))
  reference.save_pretrained(tmp_path)
  scaled = reference.model.rotary_emb.inv_freq.numpy()
  plain = 100.0 ** -(np.arange(4) / 4)
  write_gguf(
    tmp_path / "model.gguf",
    reference,
    metadata={"rope.freq_base": 100.0},
    tensors={"rope_freqs.weight": (plain / scaled).astype(np.float32)},
  )

  model = load_model(str(tmp_path / "model.gguf"), "float32")

  for length in (None, 1000):
    frequencies, scales = rope_frequencies(dataclasses.replace(model.config, rope_length=length))
    np.testing.assert_allclose(frequencies[0], scaled, rtol=1e-6)
    assert scales == 1
  # A student of this model can be exported: transformers computes the same from our words for it.
  exported = transformers.LlamaConfig.from_dict(config_to_hf(model.config))
  theirs, scale = ROPE_INIT_FUNCTIONS["longrope"](exported, "cpu", seq_len=1000)
  np.testing.assert_allclose(theirs.numpy(), scaled, rtol=1e-6)
  assert scale == 1


def test_divisors_count_beside_a_linear_factor(tmp_path):
  divisors = np.array([1.0, 2.0, 4.0, 8.0], np.float32)
  scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": 3.0}
  frequencies = []
  for metadata in ({}, scaling):
    write_gguf(
      tmp_path / "model.gguf",
      tiny_model(tiny_config("llama")),
      metadata=metadata,
      tensors={"rope_freqs.weight": divisors},
    )
    config = gguf_config(GgufFile(tmp_path / "model.gguf"))
    frequencies.append(rope_frequencies(config)[0][0])
  plain = 10_000.0 ** -(np.arange(4) / 4)
  np.testing.assert_allclose(frequencies[0], plain / divisors, rtol=1e-6)
  np.testing.assert_allclose(frequencies[1], plain / divisors / 3, rtol=1e-6)


@pytest.mark.parametrize(
  ("metadata", "length", "message"),
  [
    ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, 4, "'yarn' beside a tensor"),
    ({}, 3, r"'rope_freqs.weight' has shape \[3\]; expected \[4\]"),
  ],
)
def test_divisors_that_cannot_be_applied_are_refused(metadata, length, message, tmp_path):
  tensors = {"rope_freqs.weight": np.ones(length, np.float32)}
  path = tmp_path / "model.gguf"
  write_gguf(path, tiny_model(tiny_config("llama")), metadata=metadata, tensors=tensors)
  with pytest.raises(UserError, match=message):
    gguf_config(GgufFile(path))


def test_yarn(tmp_path):
  rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
  reference = tiny_model(tiny_config("qwen2", rope_parameters=rope | {"rope_theta": 100.0}))
  reference.save_pretrained(tmp_path)
  metadata = {
    "rope.freq_base": 100.0,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
  }
  write_gguf(tmp_path / "model.gguf", reference, metadata=metadata)
  config = gguf_config(GgufFile(tmp_path / "model.gguf"))
  assert config.ropes == load_model(str(tmp_path), "float32").config.ropes


@pytest.mark.parametrize("divisors", [[1.0, 1e30] * 4, [1.0] * 4 + [3.0] * 4, [1e30] + [1.0] * 7])
def test_divisors_that_are_not_1_and_then_1e30_are_refused(divisors, tmp_path):
  tensors = {"rope_freqs.weight": np.array(divisors, np.float32)}
  write_gguf(tmp_path / "model.gguf", tiny_model(tiny_config("gemma4_text")), tensors=tensors)
  with pytest.raises(UserError, match=r"'rope_freqs.weight' should be 1 for some pairs and then"):
    load_model(str(tmp_path / "model.gguf"), "float32")
