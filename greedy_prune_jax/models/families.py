"""The families of models, a record each: their switches, and their names in files.

A family whose layers `decoder` computes already is added here, and nowhere else but in the tests:
readers, the writer and messages go by these records.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

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
  "layers.mlp.alpha_p": "mlp.act_fn.alpha_p",
  "layers.mlp.alpha_n": "mlp.act_fn.alpha_n",
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
}


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
    tensors: names that differ from `GGUF_TENSORS`.
  """

  architecture: str
  interleaved: bool = False
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  activation: str = "silu"
  truncated_yarn: bool = True
  with_windows: str = ""
  scaled_by_width: int = 0
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
    keys: fields of `ModelConfig` -> keys of config.json, beyond or instead of `HF_KEYS`.
    tensors: names that differ from `HF_TENSORS`. Parameters of one tensor are its rows, in this
      order.
    constants: tensors of each layer that a folder has beside the parameters -> their one value.
    rope_by_kind: True if layers with a window have a rope of their own, `ropes[1]`.
    unrotated: rule for layers without rope: a name of `hf_config.UNROTATED`; empty: none.
    partial_rotary: True if a part of each head may be rotated.
    query_growth: True if queries may grow with their positions.
    interleaved: True if the dimensions of a head that rope rotates as a pair lie side by side.
    refused: keys of config.json that must not be set -> the reason.
    fixed: keys of config.json -> the one value that is supported.
    written: keys of config.json that mean nothing here -> what transformers wants to see.
    wrapper: `model_type` of the multimodal model that holds this one as its `text_config`, if that
      does not say another.
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
  refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  written: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  wrapper: str = ""
  gguf: GgufNames | None = None

  @property
  def hf_keys(self) -> dict[str, str]:
    """Fields of `ModelConfig` -> keys of config.json."""
    return HF_KEYS | dict(self.keys)

  def hf_tensors(self, prefix: str = "model.", head_prefix: str = "") -> dict[str, str]:
    """Decoder parameters -> tensors of a folder, `{layer}` for a layer's and `{expert}` for an
    expert's number.

    Args:
      prefix: prefix of all names but the head's.
      head_prefix: prefix of the head's name.
    """
    names = HF_TENSORS | dict(self.tensors)
    prefixes = {name: prefix + "layers.{layer}." * name.startswith("layers.") for name in names}
    prefixes["head"] = head_prefix
    return {name: prefixes[name] + tensor for name, tensor in names.items()}

  @property
  def gguf_tensors(self) -> dict[str, str]:
    """Decoder parameters -> tensors of a GGUF file, `{layer}` for the layer's number."""
    names = GGUF_TENSORS | dict(self.gguf.tensors if self.gguf else {})
    return {name: "blk.{layer}." * name.startswith("layers.") + t for name, t in names.items()}


_ATTENTION_BIAS = {"qkv_bias": "attention_bias", "out_bias": "attention_bias"}

_GATE_AND_UP = "mlp.gate_up_proj.weight"
_FUSED_MLP = {"layers.mlp.gate": _GATE_AND_UP, "layers.mlp.up": _GATE_AND_UP}

_POST_NORMS = {"pre_norms": False, "post_norms": True}
_OLMO_SWITCHES = {**_POST_NORMS, "wide_qk_norm": True}

_GRANITE_KEYS = {
  **_ATTENTION_BIAS,
  "attention_scale": "attention_multiplier",
  "embedding_multiplier": "embedding_multiplier",
  "residual_multiplier": "residual_multiplier",
  "logit_divisor": "logits_scaling",
}

_GEMMA_SWITCHES = {"post_norms": True, "unit_offset_norm": True, "scale_embedding": True}
_GEMMA_KEYS = {
  **_ATTENTION_BIAS,
  "activation": "hidden_activation",
  "attention_scale": "query_pre_attn_scalar",
  "logit_softcap": "final_logit_softcapping",
}
_GEMMA_TENSORS = {"layers.mlp_norm.scale": "pre_feedforward_layernorm.weight"}

_RECORDS = (
  Family(
    name="llama",
    title="Llama 2 and 3, SmolLM2, R1 distills of Llama",
    hf_class="LlamaForCausalLM",
    keys={**_ATTENTION_BIAS, "mlp_bias": "mlp_bias"},
    gguf=GgufNames(architecture="llama", interleaved=True),
  ),
  Family(
    name="mistral",
    title="Mistral, and the text model of Mistral Small 3",
    hf_class="MistralForCausalLM",
    wrapper="mistral3",
  ),  # GGUF files say llama
  Family(name="ministral", title="Ministral", hf_class="MinistralForCausalLM"),
  Family(
    name="ministral3", title="Ministral 3", hf_class="Ministral3ForCausalLM", query_growth=True
  ),
  Family(
    name="qwen2",
    title="Qwen2, Qwen2.5, R1 distills of Qwen",
    hf_class="Qwen2ForCausalLM",
    switches={"qkv_bias": True},
    gguf=GgufNames(architecture="qwen2"),
  ),
  Family(
    name="qwen3",
    title="Qwen3",
    hf_class="Qwen3ForCausalLM",
    switches={"qk_norm": True},
    keys=_ATTENTION_BIAS,
    gguf=GgufNames(architecture="qwen3"),
  ),
  Family(
    name="qwen3_moe",
    title="Qwen3 with experts (30B-A3B)",
    hf_class="Qwen3MoeForCausalLM",
    switches={"qk_norm": True},
    keys={
      **_ATTENTION_BIAS,
      "num_experts": "num_experts",
      "experts_per_token": "num_experts_per_tok",
      "expert_dim": "moe_intermediate_size",
      "renormalised_experts": "norm_topk_prob",
    },
    gguf=GgufNames(architecture="qwen3moe"),
  ),
  Family(
    name="mixtral",
    title="Mixtral",
    hf_class="MixtralForCausalLM",
    keys={
      "num_experts": "num_local_experts",
      "experts_per_token": "num_experts_per_tok",
      "expert_dim": "intermediate_size",
    },
    tensors={
      "layers.experts.router": "block_sparse_moe.gate.weight",
      "layers.experts.gate": "block_sparse_moe.experts.{expert}.w1.weight",
      "layers.experts.up": "block_sparse_moe.experts.{expert}.w3.weight",
      "layers.experts.down": "block_sparse_moe.experts.{expert}.w2.weight",
    },
  ),
  Family(
    name="gpt_oss",
    title="gpt-oss",
    hf_class="GptOssForCausalLM",
    switches={
      "attention_sinks": True,
      "expert_bias": True,
      "glu_limit": 7.0,
      "glu_alpha": 1.702,
    },
    keys={
      **_ATTENTION_BIAS,
      "num_experts": "num_local_experts",
      "experts_per_token": "num_experts_per_tok",
      "expert_dim": "intermediate_size",
      "glu_limit": "swiglu_limit",
      "glu_alpha": "swiglu_alpha",
    },
    tensors={
      "layers.experts.router": "mlp.router.weight",
      "layers.experts.gate": "mlp.experts.gate_up_proj",
      "layers.experts.up": "mlp.experts.gate_up_proj",
      "layers.experts.down": "mlp.experts.down_proj",
      "layers.experts.router_bias": "mlp.router.bias",
      "layers.experts.gate_bias": "mlp.experts.gate_up_proj_bias",
      "layers.experts.up_bias": "mlp.experts.gate_up_proj_bias",
      "layers.experts.down_bias": "mlp.experts.down_proj_bias",
    },
    gguf=GgufNames(
      architecture="gpt-oss",
      defaults={"attention.sliding_window": 128, "attention.sliding_window_pattern": 2},
      truncated_yarn=False,
      tensors={"layers.mlp_norm.scale": "post_attention_norm.weight"},
    ),
  ),
  Family(
    name="gemma2",
    title="Gemma 2",
    hf_class="Gemma2ForCausalLM",
    switches=_GEMMA_SWITCHES,
    keys={**_GEMMA_KEYS, "attention_softcap": "attn_logit_softcapping"},
    tensors=_GEMMA_TENSORS,
    gguf=GgufNames(
      architecture="gemma2",
      activation="gelu_tanh",
      defaults={
        "attention.sliding_window": 4096,
        "attention.sliding_window_pattern": 2,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
      },
      scaled_by_width=46,  # layers of the 27B model
    ),
  ),
  Family(
    name="gemma3_text",
    title="Gemma 3, text",
    hf_class="Gemma3ForCausalLM",
    switches={**_GEMMA_SWITCHES, "qk_norm": True},
    keys=_GEMMA_KEYS,
    tensors=_GEMMA_TENSORS,
    rope_by_kind=True,
    refused={"attn_logit_softcapping": "transformers gives it no meaning for this family"},
    wrapper="gemma3",
    gguf=GgufNames(
      architecture="gemma3",
      activation="gelu_tanh",
      defaults={
        "attention.sliding_window": 0,
        "attention.sliding_window_pattern": 6,
        "rope.freq_base_swa": 10_000.0,
      },
      scaled_by_width=62,  # layers of the 27B model
    ),
  ),
  Family(
    name="olmo2",
    title="OLMo 2",
    hf_class="Olmo2ForCausalLM",
    switches=_OLMO_SWITCHES,
    keys=_ATTENTION_BIAS,
    gguf=GgufNames(architecture="olmo2", with_windows="olmo3"),
  ),
  Family(
    name="olmo3",
    title="OLMo 3",
    hf_class="Olmo3ForCausalLM",
    switches=_OLMO_SWITCHES,
    keys=_ATTENTION_BIAS,
    rope_by_kind=True,
    gguf=GgufNames(
      architecture="olmo2",
      defaults={"attention.sliding_window": 0, "attention.sliding_window_pattern": 4},
    ),
  ),
  Family(
    name="smollm3",
    title="SmolLM3",
    hf_class="SmolLM3ForCausalLM",
    keys={**_ATTENTION_BIAS, "mlp_bias": "mlp_bias"},
    unrotated="listed",
    gguf=GgufNames(architecture="smollm3", interleaved=True),
  ),
  Family(
    name="phi3",
    title="Phi-3, Phi-3.5, Phi-4",
    hf_class="Phi3ForCausalLM",
    tensors={
      "layers.attention.q": "self_attn.qkv_proj.weight",
      "layers.attention.k": "self_attn.qkv_proj.weight",
      "layers.attention.v": "self_attn.qkv_proj.weight",
      **_FUSED_MLP,
    },
    partial_rotary=True,
  ),
  Family(
    name="granite",
    title="Granite 3",
    hf_class="GraniteForCausalLM",
    keys={**_GRANITE_KEYS, "mlp_bias": "mlp_bias"},
    gguf=GgufNames(architecture="granite", interleaved=True),
  ),
  Family(
    name="granitemoehybrid",
    title="Granite 4, dense",  # those of its models that have attention alone, and no experts
    hf_class="GraniteMoeHybridForCausalLM",
    keys={**_GRANITE_KEYS, "mlp_dim": "shared_intermediate_size"},
    tensors={
      "layers.mlp.gate": "shared_mlp.input_linear.weight",
      "layers.mlp.up": "shared_mlp.input_linear.weight",
      "layers.mlp.down": "shared_mlp.output_linear.weight",
    },
    fixed={"num_local_experts": 0},
    written={"mamba_n_heads": 1},  # of layers that there are not; its default may not fit the width
    unrotated="unless asked for",
  ),
  Family(
    name="glm4",
    title="GLM-4",
    hf_class="Glm4ForCausalLM",
    switches={"post_norms": True},
    keys={"qkv_bias": "attention_bias"},
    tensors={
      "layers.post_attention_norm.scale": "post_self_attn_layernorm.weight",
      "layers.post_mlp_norm.scale": "post_mlp_layernorm.weight",
      **_FUSED_MLP,
    },
    partial_rotary=True,
    interleaved=True,
    gguf=GgufNames(
      architecture="glm4",
      tensors={"layers.mlp.gate": "ffn_up.weight", "layers.mlp.up": "ffn_up.weight"},
    ),
  ),
  Family(
    name="seed_oss",
    title="Seed-OSS",
    hf_class="SeedOssForCausalLM",
    keys={"qkv_bias": "attention_bias", "out_bias": "attention_out_bias", "mlp_bias": "mlp_bias"},
    gguf=GgufNames(
      architecture="seed_oss", tensors={"layers.mlp_norm.scale": "post_attention_norm.weight"}
    ),
  ),
  Family(
    name="arcee",
    title="Arcee",
    hf_class="ArceeForCausalLM",
    switches={"gated_mlp": False},
    keys={**_ATTENTION_BIAS, "mlp_bias": "mlp_bias"},
    gguf=GgufNames(architecture="arcee", interleaved=True, activation="relu2"),
  ),
  Family(
    name="exaone4",
    title="EXAONE 4",
    hf_class="Exaone4ForCausalLM",
    switches={**_POST_NORMS, "qk_norm": True},
    unrotated="full",
    gguf=GgufNames(
      architecture="exaone4",
      defaults={"attention.sliding_window": 0, "attention.sliding_window_pattern": 4},
    ),
  ),
  Family(
    name="apertus",
    title="Apertus",
    hf_class="ApertusForCausalLM",
    switches={"gated_mlp": False, "qk_norm": True},
    keys=_ATTENTION_BIAS,
    tensors={
      "layers.attention_norm.scale": "attention_layernorm.weight",
      "layers.mlp_norm.scale": "feedforward_layernorm.weight",
    },
    constants={"mlp.act_fn.beta": 0.5, "mlp.act_fn.eps": -1e-6},
  ),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _RECORDS}
_WITH_WINDOWS = {family.gguf.with_windows for family in _RECORDS if family.gguf}
GGUF_FAMILIES: dict[str, Family] = {
  f.gguf.architecture: f for f in _RECORDS if f.gguf and f.name not in _WITH_WINDOWS
}
WRAPPERS: dict[str, Family] = {f.wrapper: f for f in _RECORDS if f.wrapper}
