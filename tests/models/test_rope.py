"""Frequencies of every rope kind against transformers, with parameters of released models."""

import dataclasses

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.hf_config import config_from_hf
from greedy_prune_jax.models.rope import config_for_length, rope_frequencies
from greedy_prune_jax.models.rope_config import RopeConfig
from tests.helpers.planted import tiny_model

_HEAD_DIM = 64
_CONTEXT = 131_072

# Llama 3.1, Qwen 2.5 and DeepSeek (yarn), and others in their manner.
PARAMETERS = {
  "linear": {"factor": 8.0, "rope_theta": 1e6},
  "dynamic": {"factor": 2.0, "rope_theta": 10_000.0},
  "llama3": {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500_000.0,
  },
  "yarn": {"factor": 4.0, "original_max_position_embeddings": 32_768, "rope_theta": 1e6},
  "yarn with mscale": {
    "rope_type": "yarn",
    "factor": 40.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.8,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10_000.0,
  },
  "yarn untruncated": {
    "rope_type": "yarn",
    "factor": 32.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
    "rope_theta": 150_000.0,
  },
  "longrope": {
    "short_factor": list(np.linspace(1, 2, _HEAD_DIM // 2)),
    "long_factor": list(np.linspace(1, 60, _HEAD_DIM // 2)),
    "original_max_position_embeddings": 4096,
    "factor": 32.0,
    "rope_theta": 10_000.0,
  },
  "proportional": {"partial_rotary_factor": 0.25, "rope_theta": 1e6},
}


@pytest.mark.parametrize("length", [None, 3000, 200_000])
@pytest.mark.parametrize("name", PARAMETERS)
def test_frequencies_equal_transformers(name, length):
  reference = LlamaConfig(
    hidden_size=4 * _HEAD_DIM,
    num_attention_heads=4,
    max_position_embeddings=_CONTEXT,
    rope_parameters={"rope_type": name, **PARAMETERS[name]},
  )
  kind = reference.rope_parameters["rope_type"]
  expected, scale = ROPE_INIT_FUNCTIONS[kind](reference, "cpu", seq_len=length)

  config = config_from_hf(reference.to_dict())
  frequencies, scales = rope_frequencies(dataclasses.replace(config, rope_length=length))

  np.testing.assert_allclose(frequencies, expected.numpy()[None], rtol=1e-6)
  np.testing.assert_allclose(scales, [scale], rtol=1e-6)


def test_long_texts_change_dynamic_and_longrope_only():
  for name in PARAMETERS:
    values = {"model_type": "llama", "hidden_size": 4 * _HEAD_DIM, "num_attention_heads": 4}
    rope = {"rope_type": name, **PARAMETERS[name]}
    config = config_from_hf(values | {"rope_parameters": rope, "max_position_embeddings": _CONTEXT})
    short, _ = rope_frequencies(config_for_length(config, 10))
    long, _ = rope_frequencies(config_for_length(config, 2 * _CONTEXT))
    assert np.array_equal(short, long) == (name not in ("dynamic", "longrope")), name


@pytest.mark.parametrize("name", PARAMETERS)
def test_lengths_with_the_same_angles_are_one(name):
  values = {"model_type": "llama", "hidden_size": 4 * _HEAD_DIM, "num_attention_heads": 4}
  rope = {"rope_type": name, **PARAMETERS[name]}
  config = config_from_hf(values | {"rope_parameters": rope, "max_position_embeddings": _CONTEXT})
  lengths = (10, 4096, 4097, 5000, _CONTEXT)
  configs = [config_for_length(config, length) for length in lengths]
  for length, one in zip(lengths, configs, strict=True):
    exact = dataclasses.replace(config, rope_length=length)
    for theirs, ours in zip(rope_frequencies(exact), rope_frequencies(one), strict=True):
      np.testing.assert_array_equal(theirs, ours)
  longer = _CONTEXT if name == "longrope" else None
  assert [one.rope_length for one in configs] == [None, None, longer, longer, longer]


def test_each_rope_of_a_model_has_its_row():
  config = ModelConfig(
    family="gemma3_text",
    vocab_size=8,
    model_dim=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=8,
    max_positions=32,
    norm_eps=1e-6,
    tied_head=True,
    ropes=(RopeConfig(theta=100.0), RopeConfig(theta=16.0)),
  )
  frequencies, scales = rope_frequencies(config)
  np.testing.assert_allclose(frequencies, [[1, 0.1], [1, 0.25]], rtol=1e-6)
  np.testing.assert_array_equal(scales, [1, 1])


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"kind": "spiral"}, "kind='spiral'; expected one of default, linear"),
    ({"kind": "yarn"}, "original_max_positions=0; expected a value: rope kind yarn needs"),
    ({"kind": "longrope", "original_max_positions": 8}, "short_factor=.*needs one"),
  ],
)
def test_incomplete_ropes_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    RopeConfig(**fields)


@pytest.mark.slow
def test_a_model_has_one_graph_for_lengths_with_the_same_angles():
  rope = {"original_max_positions": 16, "factor": 4.0, "short_factor": (1.0, 2.0)}
  longrope = RopeConfig(kind="longrope", long_factor=(1.0, 9.0), **rope)
  model = tiny_model(num_heads=2, head_dim=4, max_positions=64, ropes=(longrope,))
  assert model.graph_for(16) is model.graph
  long, longer = model.graph_for(17), model.graph_for(64)
  assert long != model.graph
  assert (long, hash(long)) == (longer, hash(longer))  # one compiled program
