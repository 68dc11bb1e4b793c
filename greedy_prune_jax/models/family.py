"""The record of a family of models, and the names that most families give to things in files."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from greedy_prune_jax.models.config import VARIANTS

# Fields of `ModelConfig` -> keys of config.json.
HF_KEYS: dict[str, str] = {
  "vocab_size": "vocab_size",
  "model_dim": "hidden_size",
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "num_kv_heads": "num_key_value_heads",
  "head_dim": "head_dim",
  "mlp_dim": "intermediate_size",
  "max_positions": "max_position_embeddings",
  "norm_eps": "rms_norm_eps",
  "tied_head": "tie_word_embeddings",
  "activation": "hidden_act",
}

# Fields -> keys of most families whose projections may have a bias.
ATTENTION_BIAS = {"qkv_bias": "attention_bias", "out_bias": "attention_bias"}

# Decoder parameters -> tensors of a Hugging Face folder. Those of layers stand under the layer.
HF_TENSORS: dict[str, str] = {
  "embedding": "embed_tokens.weight",
  "head": "lm_head.weight",
  "final_norm.scale": "norm.weight",
  "layers.attention_norm.scale": "input_layernorm.weight",
  "layers.post_attention_norm.scale": "post_attention_layernorm.weight",
  "layers.mlp_norm.scale": "post_attention_layernorm.weight",
  "layers.post_mlp_norm.scale": "post_feedforward_layernorm.weight",
  "layers.attention.q": "self_attn.q_proj.weight",
  "layers.attention.k": "self_attn.k_proj.weight",
  "layers.attention.v": "self_attn.v_proj.weight",
  "layers.attention.out": "self_attn.o_proj.weight",
  "layers.attention.q_bias": "self_attn.q_proj.bias",
  "layers.attention.k_bias": "self_attn.k_proj.bias",
  "layers.attention.v_bias": "self_attn.v_proj.bias",
  "layers.attention.out_bias": "self_attn.o_proj.bias",
  "layers.attention.sinks": "self_attn.sinks",
  "layers.attention.gate": "self_attn.q_proj.weight",
  "layers.delta.q": "linear_attn.in_proj_qkv.weight",
  "layers.delta.k": "linear_attn.in_proj_qkv.weight",
  "layers.delta.v": "linear_attn.in_proj_qkv.weight",
  "layers.delta.gate": "linear_attn.in_proj_z.weight",
  "layers.delta.rate": "linear_attn.in_proj_b.weight",
  "layers.delta.decay": "linear_attn.in_proj_a.weight",
  "layers.delta.q_filter": "linear_attn.conv1d.weight",
  "layers.delta.k_filter": "linear_attn.conv1d.weight",
  "layers.delta.v_filter": "linear_attn.conv1d.weight",
  "layers.delta.decay_bias": "linear_attn.dt_bias",
  "layers.delta.log_speed": "linear_attn.A_log",
  "layers.delta.norm_scale": "linear_attn.norm.weight",
  "layers.delta.out": "linear_attn.out_proj.weight",
  "layers.conv.in_gate": "conv.in_proj.weight",
  "layers.conv.out_gate": "conv.in_proj.weight",
  "layers.conv.value": "conv.in_proj.weight",
  "layers.conv.filter": "conv.conv.weight",
  "layers.conv.out": "conv.out_proj.weight",
  "layers.conv.in_gate_bias": "conv.in_proj.bias",
  "layers.conv.out_gate_bias": "conv.in_proj.bias",
  "layers.conv.value_bias": "conv.in_proj.bias",
  "layers.conv.filter_bias": "conv.conv.bias",
  "layers.conv.out_bias": "conv.out_proj.bias",
  "layers.attention.q_norm.scale": "self_attn.q_norm.weight",
  "layers.attention.k_norm.scale": "self_attn.k_norm.weight",
  "layers.attention.wide_q_norm.scale": "self_attn.q_norm.weight",
  "layers.attention.wide_k_norm.scale": "self_attn.k_norm.weight",
  "layers.mlp.gate": "mlp.gate_proj.weight",
  "layers.mlp.up": "mlp.up_proj.weight",
  "layers.mlp.down": "mlp.down_proj.weight",
  "layers.mlp.gate_bias": "mlp.gate_proj.bias",
  "layers.mlp.up_bias": "mlp.up_proj.bias",
  "layers.mlp.down_bias": "mlp.down_proj.bias",
  "layers.experts.router": "mlp.gate.weight",
  "layers.experts.gate": "mlp.experts.{expert}.gate_proj.weight",
  "layers.experts.up": "mlp.experts.{expert}.up_proj.weight",
  "layers.experts.down": "mlp.experts.{expert}.down_proj.weight",
  "layers.experts.shared.gate": "mlp.shared_expert.gate_proj.weight",
  "layers.experts.shared.up": "mlp.shared_expert.up_proj.weight",
  "layers.experts.shared.down": "mlp.shared_expert.down_proj.weight",
  "layers.experts.shared_gate": "mlp.shared_expert_gate.weight",
  "layers.mlp.alpha_p": "mlp.act_fn.alpha_p",
  "layers.mlp.alpha_n": "mlp.act_fn.alpha_n",
  "layers.scale": "layer_scalar",
  "layers.per_layer.gate": "per_layer_input_gate.weight",
  "layers.per_layer.out": "per_layer_projection.weight",
  "layers.per_layer.norm.scale": "post_per_layer_input_norm.weight",
  "per_layer.table": "embed_tokens_per_layer.weight",
  "per_layer.projection": "per_layer_model_projection.weight",
  "per_layer.norm.scale": "per_layer_projection_norm.weight",
}

# Decoder parameters -> tensors of a GGUF file. Those of layers stand under `blk.{layer}.`.
GGUF_TENSORS: dict[str, str] = {
  "embedding": "token_embd.weight",
  "head": "output.weight",
  "final_norm.scale": "output_norm.weight",
  "layers.attention_norm.scale": "attn_norm.weight",
  "layers.post_attention_norm.scale": "post_attention_norm.weight",
  "layers.mlp_norm.scale": "ffn_norm.weight",
  "layers.post_mlp_norm.scale": "post_ffw_norm.weight",
  "layers.attention.q": "attn_q.weight",
  "layers.attention.k": "attn_k.weight",
  "layers.attention.v": "attn_v.weight",
  "layers.attention.out": "attn_output.weight",
  "layers.attention.q_bias": "attn_q.bias",
  "layers.attention.k_bias": "attn_k.bias",
  "layers.attention.v_bias": "attn_v.bias",
  "layers.attention.out_bias": "attn_output.bias",
  "layers.attention.sinks": "attn_sinks.weight",
  "layers.attention.q_norm.scale": "attn_q_norm.weight",
  "layers.attention.k_norm.scale": "attn_k_norm.weight",
  "layers.attention.wide_q_norm.scale": "attn_q_norm.weight",
  "layers.attention.wide_k_norm.scale": "attn_k_norm.weight",
  "layers.mlp.gate": "ffn_gate.weight",
  "layers.mlp.up": "ffn_up.weight",
  "layers.mlp.down": "ffn_down.weight",
  "layers.mlp.gate_bias": "ffn_gate.bias",
  "layers.mlp.up_bias": "ffn_up.bias",
  "layers.mlp.down_bias": "ffn_down.bias",
  "layers.experts.router": "ffn_gate_inp.weight",
  "layers.experts.gate": "ffn_gate_exps.weight",
  "layers.experts.up": "ffn_up_exps.weight",
  "layers.experts.down": "ffn_down_exps.weight",
  "layers.experts.router_bias": "ffn_gate_inp.bias",
  "layers.experts.gate_bias": "ffn_gate_exps.bias",
  "layers.experts.up_bias": "ffn_up_exps.bias",
  "layers.experts.down_bias": "ffn_down_exps.bias",
  "layers.experts.shared.gate": "ffn_gate_shexp.weight",
  "layers.experts.shared.up": "ffn_up_shexp.weight",
  "layers.experts.shared.down": "ffn_down_shexp.weight",
  "layers.experts.shared_gate": "ffn_gate_inp_shexp.weight",
  "layers.mlp_alone_norm.scale": "post_ffw_norm_1.weight",
  "layers.experts.norm.scale": "pre_ffw_norm_2.weight",
  "layers.experts.post_norm.scale": "post_ffw_norm_2.weight",
  "layers.experts.router_norm.scale": "ffn_gate_inp.scale",
  "layers.experts.scale": "ffn_down_exps.scale",
  "layers.attention.gate": "attn_q.weight",
  "layers.delta.q": "attn_qkv.weight",
  "layers.delta.k": "attn_qkv.weight",
  "layers.delta.v": "attn_qkv.weight",
  "layers.delta.gate": "attn_gate.weight",
  "layers.delta.rate": "ssm_beta.weight",
  "layers.delta.decay": "ssm_alpha.weight",
  "layers.delta.q_filter": "ssm_conv1d.weight",
  "layers.delta.k_filter": "ssm_conv1d.weight",
  "layers.delta.v_filter": "ssm_conv1d.weight",
  "layers.delta.decay_bias": "ssm_dt.bias",
  "layers.delta.log_speed": "ssm_a",
  "layers.delta.norm_scale": "ssm_norm.weight",
  "layers.delta.out": "ssm_out.weight",
  "layers.conv.in_gate": "shortconv.in_proj.weight",
  "layers.conv.out_gate": "shortconv.in_proj.weight",
  "layers.conv.value": "shortconv.in_proj.weight",
  "layers.conv.filter": "shortconv.conv.weight",
  "layers.conv.out": "shortconv.out_proj.weight",
  "layers.scale": "layer_output_scale.weight",
  "layers.per_layer.gate": "inp_gate.weight",
  "layers.per_layer.out": "proj.weight",
  "layers.per_layer.norm.scale": "post_norm.weight",
  "per_layer.table": "per_layer_token_embd.weight",
  "per_layer.projection": "per_layer_model_proj.weight",
  "per_layer.norm.scale": "per_layer_proj_norm.weight",
}


def _with_variants(names: Mapping[str, str]) -> dict[str, str]:
  """The names, and those of the forms that a part may have."""
  forms = {
    re.sub(rf"\b{base}\b", form, path, count=1): name
    for form, base in VARIANTS.items()
    for path, name in names.items()
    if path.startswith(f"layers.{base}.")
  }
  return dict(names) | forms


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufNames:
  """A family in GGUF files.

  Attributes:
    architecture: `general.architecture` of its files.
    interleaved: True if the two halves of each query and key head are stored interleaved.
    defaults: metadata keys -> values that llama.cpp takes where a file lacks them. With
      `attention.sliding_window` among them, the family's layers have windows.
    activation: activation of its feed-forward layers, of which files say nothing.
    truncated_yarn: True where yarn's ramp begins and ends at whole pairs; files do not say.
    with_windows: name of the family of files that have a window; empty: this one.
    scaled_by_width: number of layers of the one model of the family that scales queries by the
      residual stream's width per head instead of the head width: a file does not say.
    values_in_turns: True if value heads of Gated DeltaNet are those of every key head in turn.
    tensors: names that differ from `GGUF_TENSORS`.
  """

  architecture: str
  interleaved: bool = False
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  activation: str = "silu"
  truncated_yarn: bool = True
  with_windows: str = ""
  scaled_by_width: int = 0
  values_in_turns: bool = False
  tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One family.

  Attributes:
    name: `model_type` of config.json, and `ModelConfig.family`.
    title: models of the family, as people call them.
    hf_class: the class of transformers, for `architectures` of config.json.
    switches: fields of `ModelConfig` with one value for the whole family, or where a file does not
      say another.
    keys: fields of `ModelConfig` -> keys of config.json, beyond or instead of `HF_KEYS`; an empty
      one where the family has no such key.
    tensors: names that differ from `HF_TENSORS`. Parameters of one tensor are its rows, in this
      order.
    constants: tensors of each layer that a folder has beside the parameters -> their one value.
    rope_by_kind: True if layers with a window have a rope of their own, `ropes[1]`.
    unrotated: rule for layers without rope: a name of `hf_config.UNROTATED`; empty: none.
    partial_rotary: True if a part of each head may be rotated.
    query_growth: True if queries may grow with their positions.
    interleaved: True if the dimensions of a head that rope rotates as a pair lie side by side.
    heads_by_kind: True if layers without a window may have other heads than those with one.
    only_in_5: True if transformers 4 does not know it, and its old keys must not be written.
    refused: keys of config.json that must not be set -> the reason.
    fixed: keys of config.json -> the one value that is supported.
    written: keys of config.json that mean nothing here -> what transformers wants to see.
    wrapper: `model_type` of the multimodal model that holds this one as its `text_config`, if that
      does not say another.
    wrapper_ties: True if a wrapper's config.json that does not say so ties head and embedding.
    gguf: names in GGUF files; None where there are none or they name another family.
  """

  name: str
  title: str
  hf_class: str
  switches: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
  rope_by_kind: bool = False
  constants: Mapping[str, float] = dataclasses.field(default_factory=dict)
  unrotated: str = ""
  partial_rotary: bool = False
  query_growth: bool = False
  interleaved: bool = False
  heads_by_kind: bool = False
  only_in_5: bool = False
  refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  written: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  wrapper: str = ""
  wrapper_ties: bool = True
  gguf: GgufNames | None = None

  @property
  def hf_keys(self) -> dict[str, str]:
    """Fields of `ModelConfig` -> keys of config.json."""
    return {field: key for field, key in (HF_KEYS | dict(self.keys)).items() if key}

  def hf_tensors(self, prefix: str = "model.", head_prefix: str = "") -> dict[str, str]:
    """Decoder parameters -> tensors of a folder, `{layer}` for a layer's and `{expert}` for an
    expert's number.

    Args:
      prefix: prefix of all names but the head's.
      head_prefix: prefix of the head's name.
    """
    names = _with_variants(HF_TENSORS | dict(self.tensors))
    prefixes = {name: prefix + "layers.{layer}." * name.startswith("layers.") for name in names}
    prefixes["head"] = head_prefix
    return {name: prefixes[name] + tensor for name, tensor in names.items()}

  @property
  def gguf_tensors(self) -> dict[str, str]:
    """Decoder parameters -> tensors of a GGUF file, `{layer}` for the layer's number."""
    names = _with_variants(GGUF_TENSORS | dict(self.gguf.tensors if self.gguf else {}))
    return {name: "blk.{layer}." * name.startswith("layers.") + t for name, t in names.items()}
