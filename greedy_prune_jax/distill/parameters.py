"""Parameters of a student as a flat dict of arrays, and back into a decoder.

What is trained, differentiated and stored is a plain dict, `{"layers.attention.q": array, ...}`:
of all weights, or of LoRA's matrices, `{"layers.attention.q.a": array, ...}`.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.parameters import parameter_name
from greedy_prune_jax.models.weights import MasterWeight

Params = dict[str, Array]


def flat_params(params: nnx.State) -> Params:
  """Parameters by name, as `models.parameters.LAYOUTS` names them."""
  return {parameter_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(params)}


def unflat_params(like: nnx.State, values: Mapping[str, Any]) -> nnx.State:
  """A decoder's parameters, in the structure of `like`, with the values of a flat dict."""
  flat = {
    path: leaf.replace(values[parameter_name(path)]) for path, leaf in nnx.to_flat_state(like)
  }
  return nnx.from_flat_state(flat)


def with_params(model: Model, values: Mapping[str, Any]) -> Model:
  """The model with other parameters."""
  return Model(model.config, model.graph, unflat_params(model.params, values))


# Scales of norms, and what a recurrence is fine-tuned by.
_FLOAT32 = (".scale", "filter", ".decay_bias", ".log_speed", ".norm_scale")


def is_norm(name: str) -> bool:
  """Tells whether a parameter is float32 whatever the weights are: a norm's scale, or as small."""
  return name.endswith(_FLOAT32)


def decays(name: str) -> bool:
  """Tells whether weight decay applies to a parameter: to matrices alone."""
  return not is_norm(name) and not name.endswith(("_bias", ".sinks", ".alpha_p", ".alpha_n"))


def cast(values: Mapping[str, Array], dtype: Any) -> Params:
  """Parameters in the dtype in which products are to be computed; norms stay float32."""
  return {name: x if is_norm(name) else x.astype(dtype) for name, x in values.items()}


def master_weights(values: Params, dtype: Any, platform: str) -> dict[str, Array | MasterWeight]:
  """Parameters as a decoder that computes in `dtype` is trained with; all else as it is.

  Args:
    values: float32, trained, or frozen where products are in float32 too.
    dtype: products' dtype.
    platform: see `Decoder`; only a GPU has two ways to multiply float32.
  """
  if jnp.dtype(dtype) == jnp.float32 and platform != "gpu":
    return dict(values)
  return {
    name: MasterWeight(x, dtype, platform) if decays(name) else x for name, x in values.items()
  }
