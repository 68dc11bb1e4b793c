"""The families that are neither Gemma nor Qwen."""

from greedy_prune_jax.models.family import ATTENTION_BIAS, Family, GgufNames

_GATE_AND_UP = "mlp.gate_up_proj.weight"
_FUSED_MLP = {"layers.mlp.gate": _GATE_AND_UP, "layers.mlp.up": _GATE_AND_UP}

_POST_NORMS = {"pre_norms": False, "post_norms": True}
_OLMO_SWITCHES = {**_POST_NORMS, "wide_qk_norm": True}

_GRANITE_KEYS = {
  **ATTENTION_BIAS,
  "attention_scale": "attention_multiplier",
  "embedding_multiplier": "embedding_multiplier",
  "residual_multiplier": "residual_multiplier",
  "logit_divisor": "logits_scaling",
}

OTHERS = (
  Family(
    name="llama",
    title="Llama 2 and 3, SmolLM2, R1 distills of Llama",
    hf_class="LlamaForCausalLM",
    keys={**ATTENTION_BIAS, "mlp_bias": "mlp_bias"},
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
      **ATTENTION_BIAS,
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
    transposed_experts=True,
    gguf=GgufNames(
      architecture="gpt-oss",
      defaults={"attention.sliding_window": 128, "attention.sliding_window_pattern": 2},
      truncated_yarn=False,
      tensors={"layers.mlp_norm.scale": "post_attention_norm.weight"},
    ),
  ),
  Family(
    name="olmo2",
    title="OLMo 2",
    hf_class="Olmo2ForCausalLM",
    switches=_OLMO_SWITCHES,
    keys=ATTENTION_BIAS,
    gguf=GgufNames(architecture="olmo2", with_windows="olmo3"),
  ),
  Family(
    name="olmo3",
    title="OLMo 3",
    hf_class="Olmo3ForCausalLM",
    switches=_OLMO_SWITCHES,
    keys=ATTENTION_BIAS,
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
    keys={**ATTENTION_BIAS, "mlp_bias": "mlp_bias"},
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
    keys={**ATTENTION_BIAS, "mlp_bias": "mlp_bias"},
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
    keys=ATTENTION_BIAS,
    tensors={
      "layers.attention_norm.scale": "attention_layernorm.weight",
      "layers.mlp_norm.scale": "feedforward_layernorm.weight",
    },
    constants={"mlp.act_fn.beta": 0.5, "mlp.act_fn.eps": -1e-6},
  ),
  Family(
    name="lfm2",
    title="LFM2, LFM2.5",
    hf_class="Lfm2ForCausalLM",
    switches={"qk_norm": True, "activation": "silu", "recurrence": "conv"},
    keys={
      "norm_eps": "norm_eps",
      "activation": "",
      "conv_width": "conv_L_cache",
      "conv_bias": "conv_bias",
    },
    tensors={
      "final_norm.scale": "embedding_norm.weight",
      "layers.attention_norm.scale": "operator_norm.weight",
      "layers.mlp_norm.scale": "ffn_norm.weight",
      "layers.attention.q_norm.scale": "self_attn.q_layernorm.weight",
      "layers.attention.k_norm.scale": "self_attn.k_layernorm.weight",
      "layers.attention.out": "self_attn.out_proj.weight",
      "layers.mlp.gate": "feed_forward.w1.weight",
      "layers.mlp.up": "feed_forward.w3.weight",
      "layers.mlp.down": "feed_forward.w2.weight",
    },
    written={"block_auto_adjust_ff_dim": False},  # the width is what was made of it
    gguf=GgufNames(architecture="lfm2", tensors={"final_norm.scale": "token_embd_norm.weight"}),
  ),
)
