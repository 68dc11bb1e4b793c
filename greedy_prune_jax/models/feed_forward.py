"""Feed-forward layers: one for all tokens, or experts of which each token takes a few."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.norm import RMSNorm
from greedy_prune_jax.models.weights import (
  MasterWeight,
  add_biases,
  along,
  biased,
  project,
  random_weight,
)
from greedy_prune_jax.parallel import MODEL, num_model_shards, on_model_shards

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "silu": jax.nn.silu,
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


def activated(name: str, x: Array) -> Array:
  """The activation of this name (a value of `hf_config.ACTIVATIONS`), if it has no parameters."""
  return _ACTIVATIONS[name](x)


def xielu(x: Array, alpha_p: Array, alpha_n: Array) -> Array:
  """The activation with two trained slopes of arXiv 2411.13010; its other constants are fixed."""
  beta, eps = 0.5, -1e-6
  above = jax.nn.softplus(alpha_p) * x * x + beta * x
  below = (beta + jax.nn.softplus(alpha_n)) * (jnp.expm1(jnp.minimum(x, eps)) - x) + beta * x
  return jnp.where(x > 0, above, below)


def gated(config: ModelConfig, gate: Array, up: Array) -> Array:
  """Hidden layer of a feed-forward with a gate."""
  if config.glu_limit is None:
    return _ACTIVATIONS[config.activation](gate) * up
  gate = jnp.minimum(gate, config.glu_limit)
  up = jnp.clip(up, -config.glu_limit, config.glu_limit)
  return (up + 1) * gate * jax.nn.sigmoid(config.glu_alpha * gate)


class FeedForward(nnx.Module):
  """Feed-forward, down(activation(gate(x)) * up(x)), or down(activation(up(x))) without a gate."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any, width: int):
    d, f = config.model_dim, width
    self.config = config
    if config.gated_mlp:
      self.gate = random_weight(rngs, (d, f), dtype, d)
    self.up = random_weight(rngs, (d, f), dtype, d)
    self.down = random_weight(rngs, (f, d), dtype, f)
    if config.mlp_bias:
      add_biases(self, dtype, up=(f,), down=(d,))
    if config.mlp_bias and config.gated_mlp:
      add_biases(self, dtype, gate=(f,))
    if config.activation == "xielu":
      self.alpha_p = nnx.Param(jnp.full((1,), 0.2, dtype))
      self.alpha_n = nnx.Param(jnp.full((1,), -1.0, dtype))

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns what to add to the residual stream, in float32."""
    up = biased(self, "up", project("...d,df->...f", x, self.up[...]))
    if self.config.gated_mlp:
      gate = biased(self, "gate", project("...d,df->...f", x, self.gate[...]))
      hidden = gated(self.config, gate, up)
    else:
      hidden = self._activated(up)
    return biased(self, "down", project("...f,fd->...d", hidden, self.down[...]))

  def _activated(self, x: Array) -> Array:
    if self.config.activation != "xielu":
      return _ACTIVATIONS[self.config.activation](x)
    slopes = (alpha[...].astype(jnp.float32) for alpha in (self.alpha_p, self.alpha_n))
    return xielu(x, *(along(slope, x) for slope in slopes))


# Up to so many tokens meet every expert: all weights are read then anyway, and nothing is sorted.
# While an accelerator reads a weight from its memory, it has time to multiply it by so many tokens.
FEW_TOKENS, FEW_ON_ACCELERATORS = 32, 256
# Rows of a block that one expert multiplies, and blocks side by side, of which each has a copy of
# its expert's weights.
_FEWEST_ROWS, _MOST_ROWS, _BLOCKS_AT_ONCE = 8, 128, 16


class Experts(nnx.Module):
  """Gated feed-forwards of which each token takes the few that a router gives most weight.

  In some families every token takes a shared one too, times the sigmoid of a gate of its own.
  Beside a feed-forward, experts have a norm before and one after them, and the router has a third.
  Letters beside those of `decoder`: E experts, k of them a token, F the width of one.
  """

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, e, f = config.model_dim, config.num_experts, config.expert_dim
    self.config = config
    self.router = random_weight(rngs, (d, e), dtype, d)
    self.gate = random_weight(rngs, (e, d, f), dtype, d)
    self.up = random_weight(rngs, (e, d, f), dtype, d)
    self.down = random_weight(rngs, (e, f, d), dtype, f)
    if config.shared_expert_dim:
      self.shared = FeedForward(config, rngs, dtype, config.shared_expert_dim)
      self.shared_gate = random_weight(rngs, (d, 1), dtype, d)
    if config.experts_beside_mlp:
      self.router_norm = RMSNorm(d, config=config)
      self.scale = nnx.Param(jnp.ones((e,), jnp.float32))
      self.norm = RMSNorm(d, config=config)
      self.post_norm = RMSNorm(d, config=config)
    if config.expert_bias:
      add_biases(self, dtype, router=(e,), gate=(e, f), up=(e, f), down=(e, d))

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns what to add to the residual stream, in float32."""
    tokens = x.reshape(-1, x.shape[-1])
    weights, chosen = self.route(tokens)
    if self.config.experts_beside_mlp:
      tokens = self.norm(tokens)
    experts = tuple(weight[...] for weight in (self.gate, self.up, self.down))
    added = chosen_experts(self.config, tokens, weights, chosen, (experts, self._biases))
    out = cast(Array, added)  # pyright takes what custom_vjp returns for any object
    if self.config.shared_expert_dim:
      share = jax.nn.sigmoid(project("td,do->to", tokens, self.shared_gate[...]))
      out = out + share * self.shared(tokens)
    if self.config.experts_beside_mlp:
      out = self.post_norm(out)
    return out.reshape(x.shape)

  @property
  def _biases(self) -> tuple[Array, ...]:
    """Of gates, ups and downs; empty where there are none."""
    if not self.config.expert_bias:
      return ()
    return tuple(getattr(self, f"{name}_bias")[...] for name in ("gate", "up", "down"))

  def route(self, x: Float[Array, "T D"]) -> tuple[Float[Array, "T k"], Int[Array, "T k"]]:
    """Weights and numbers of each token's experts."""
    if self.config.experts_beside_mlp:
      x = self.router_norm(x) * x.shape[-1] ** -0.5
    logits = biased(self, "router", project("td,de->te", x, self.router[...]))
    probs = jax.nn.softmax(logits, axis=-1)
    weights, chosen = jax.lax.top_k(probs, self.config.experts_per_token)
    if self.config.renormalised_experts:
      weights = weights / weights.sum(-1, keepdims=True)
    if self.config.experts_beside_mlp:
      weights = weights * self.scale[...][chosen]
    return weights, chosen


# Weights of all experts, gates and ups [E, D, F] and downs [E, F, D]; and their biases, if any.
ExpertWeights = tuple[tuple[Array | MasterWeight, ...], tuple[Array, ...]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def chosen_experts(
  config: ModelConfig,
  x: Float[Array, "T D"],
  weights: Float[Array, "T k"],
  chosen: Int[Array, "T k"],
  experts: ExpertWeights,
) -> Float[Array, "T D"]:
  """The experts that each token has chosen, added up by their weights.

  `vmap` makes one call for the tokens of a whole batch, which fill blocks better than those of one
  item. The backward pass runs the forward pass again, and `vmap` of it one item after the other.
  """
  run = jax.custom_batching.custom_vmap(functools.partial(_run_chosen, config))

  @run.def_vmap
  def _(size, batched, *args):
    if any(jax.tree.leaves(batched[3])):
      return _one_by_one(functools.partial(_run_chosen, config), size, batched, args), True
    *tokens, experts = args
    flat = [_flat(*item, size) for item in zip(tokens, batched[:3], strict=True)]
    return run(*flat, experts).reshape(size, -1, x.shape[-1]), True

  return run(x, weights, chosen, experts)


def _chosen_forward(config: ModelConfig, *args: Any) -> tuple[Array, Any]:
  return chosen_experts(config, *args), args


def _chosen_backward(config: ModelConfig, args: Any, d_out: Array) -> tuple[Any, ...]:
  def pull(x, weights, chosen, experts, d_out):
    run = functools.partial(_run_chosen, config)
    _, backward = jax.vjp(lambda x, w, e: run(x, w, chosen, e), x, weights, experts)
    return backward(d_out)

  run = jax.custom_batching.custom_vmap(pull)

  @run.def_vmap
  def _(size, batched, *args):
    gradients = _one_by_one(pull, size, batched, args)
    return gradients, jax.tree.map(lambda _: True, gradients)

  d_x, d_weights, d_experts = run(*args, d_out)
  return d_x, d_weights, None, d_experts


chosen_experts.defvjp(_chosen_forward, _chosen_backward)


def _run_chosen(
  config: ModelConfig,
  x: Float[Array, "T D"],
  weights: Float[Array, "T k"],
  chosen: Int[Array, "T k"],
  experts: ExpertWeights,
) -> Float[Array, "T D"]:
  """See `chosen_experts`; few tokens meet every expert.

  In a search, devices that share the weights each run their part of every expert, and what they
  give is added up once for each token: XLA would do so for each of a token's experts.
  """
  every, grouped = (functools.partial(run, config) for run in (_run_every, _run_grouped))

  def run(x, weights, chosen, experts):
    if len(x) <= FEW_TOKENS:
      return every(x, weights, chosen, experts)
    if len(x) <= FEW_ON_ACCELERATORS:
      return jax.lax.platform_dependent(x, weights, chosen, experts, cpu=grouped, default=every)
    return grouped(x, weights, chosen, experts)

  if num_model_shards() == 1:
    return run(x, weights, chosen, experts)

  def run_part(x, weights, chosen, experts):
    arrays, biases = experts
    if biases:  # those of downs are added by one device
      is_first = jax.lax.axis_index(MODEL) == 0
      biases = *biases[:2], jnp.where(is_first, biases[2], 0)
    return jax.lax.psum(run(x, weights, chosen, (arrays, biases)), MODEL)

  wide, narrow = P(None, None, MODEL), P(None, MODEL)
  of_experts = (wide, wide, narrow), (narrow, narrow, P())[: len(experts[1])]
  specs = P(), P(), P(), of_experts
  return on_model_shards(run_part, specs, P())(x, weights, chosen, experts)


def _run_every(
  config: ModelConfig,
  x: Float[Array, "T D"],
  weights: Float[Array, "T k"],
  chosen: Int[Array, "T k"],
  experts: ExpertWeights,
) -> Float[Array, "T D"]:
  """Every token through every expert, weighted by 0 where it was not chosen."""
  of_expert = (weights[..., None] * jax.nn.one_hot(chosen, config.num_experts)).sum(1).T  # [E, T]
  x = jnp.broadcast_to(x, (config.num_experts, *x.shape))
  return (_through(config, x, experts) * of_expert[..., None]).sum(0)


def _run_grouped(
  config: ModelConfig,
  x: Float[Array, "T D"],
  weights: Float[Array, "T k"],
  chosen: Int[Array, "T k"],
  experts: ExpertWeights,
) -> Float[Array, "T D"]:
  """The tokens' experts, in blocks of rows that one expert multiplies.

  `jax.lax.ragged_dot` would do the same, but on CPUs and GPUs XLA makes a masked copy of all rows
  for each expert (compiled), and for a TPU it does not compile in bfloat16.
  """
  num_experts, num_rows = config.num_experts, chosen.size
  mean = num_rows // num_experts
  # Where an expert fills many blocks, larger ones leave little more of its last one empty.
  most = _MOST_ROWS if mean < 8 * _MOST_ROWS else 2 * _MOST_ROWS
  block = min(most, max(_FEWEST_ROWS, 1 << mean.bit_length()))
  num_blocks = min(num_rows, num_rows // block + num_experts)  # at most, however tokens choose
  expert_of_row = chosen.reshape(-1)
  sizes = jnp.bincount(expert_of_row, length=num_experts)
  blocks_of_expert = (sizes + block - 1) // block
  ends = jnp.cumsum(blocks_of_expert)
  order = jnp.argsort(expert_of_row, stable=True)
  sorted_experts = expert_of_row[order]
  rank = jnp.arange(num_rows) - (jnp.cumsum(sizes) - sizes)[sorted_experts]
  sorted_places = (ends - blocks_of_expert)[sorted_experts] * block + rank
  places = jnp.zeros(num_rows, sorted_places.dtype).at[order].set(sorted_places)
  tokens = (
    jnp.full(num_blocks * block, len(x)).at[places].set(jnp.arange(num_rows) // chosen.shape[1])
  )
  rows = x.at[tokens].get(mode="fill", fill_value=0).reshape(num_blocks, block, -1)
  expert_of_block = jnp.searchsorted(ends, jnp.arange(num_blocks), side="right")

  @jax.checkpoint  # backwards, the experts' weights are read again, and not kept for each block
  def run(rows_and_expert):
    rows, expert = rows_and_expert
    return _through(config, rows, jax.tree.map(lambda weight: weight[expert], experts))

  out = jax.lax.map(
    run,
    (rows, jnp.minimum(expert_of_block, num_experts - 1)),
    batch_size=min(_BLOCKS_AT_ONCE, num_blocks),
  )
  out = out.reshape(num_blocks * block, -1)[places].reshape(*chosen.shape, -1)
  return (out * weights[..., None]).sum(1)


def _through(
  config: ModelConfig, x: Float[Array, "*E T D"], experts: ExpertWeights
) -> Float[Array, "*E T D"]:
  """Tokens of each expert through it; of one expert's, whose weights lack the axis E, likewise."""
  (gates, ups, downs), biases = experts
  gate, up = (project("...td,...df->...tf", x, weight) for weight in (gates, ups))
  if biases:
    gate, up = gate + biases[0][..., None, :], up + biases[1][..., None, :]
  out = project("...tf,...fd->...td", gated(config, gate, up), downs)
  return out + biases[2][..., None, :] if biases else out


def _flat(x: Array, is_batched: bool, size: int) -> Array:
  """Tokens of a whole batch, [B * T, ...], of [B, T, ...] or of [T, ...] for all alike."""
  x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
  return x.reshape(-1, *x.shape[2:])


def _one_by_one(function: Callable[..., Any], size: int, batched: Any, args: Any) -> Any:
  """Result of `vmap`, without asking for batching rules of the function's primitives."""

  def run(index):
    one = jax.tree.map(lambda x, is_batched: x[index] if is_batched else x, args, tuple(batched))
    return function(*one)

  return jax.lax.map(run, jnp.arange(size))
