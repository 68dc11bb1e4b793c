"""The families of Gemma."""

from greedy_prune_jax.models.family import ATTENTION_BIAS, Family, GgufNames

_GEMMA_SWITCHES = {"post_norms": True, "unit_offset_norm": True, "scale_embedding": True}
_GEMMA_KEYS = {
  **ATTENTION_BIAS,
  "activation": "hidden_activation",
  "attention_scale": "query_pre_attn_scalar",
  "logit_softcap": "final_logit_softcapping",
}
_GEMMA_TENSORS = {"layers.mlp_norm.scale": "pre_feedforward_layernorm.weight"}

GEMMA = (
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
    name="gemma4_text",
    title="Gemma 4, text, with experts (26B-A4B) and without",
    hf_class="Gemma4ForCausalLM",
    switches={
      "post_norms": True,
      "scale_embedding": True,
      "qk_norm": True,
      "value_norm": True,
      "attention_scale": 1.0,
      "layer_scalars": True,
    },
    keys={
      **ATTENTION_BIAS,
      "activation": "hidden_activation",
      "logit_softcap": "final_logit_softcapping",
      "global_head_dim": "global_head_dim",
      "global_kv_heads": "num_global_key_value_heads",
      "global_keys_as_values": "attention_k_eq_v",
      "shared_kv_layers": "num_kv_shared_layers",
      "wide_shared_mlp": "use_double_wide_mlp",
      "per_layer_dim": "hidden_size_per_layer_input",
      "experts_beside_mlp": "enable_moe_block",
      "num_experts": "num_experts",
      "experts_per_token": "top_k_experts",
      "expert_dim": "moe_intermediate_size",
    },
    tensors={
      **_GEMMA_TENSORS,
      "layers.mlp_alone_norm.scale": "post_feedforward_layernorm_1.weight",
      "layers.experts.norm.scale": "pre_feedforward_layernorm_2.weight",
      "layers.experts.post_norm.scale": "post_feedforward_layernorm_2.weight",
      "layers.experts.router": "router.proj.weight",
      "layers.experts.router_norm.scale": "router.scale",
      "layers.experts.scale": "router.per_expert_scale",
      "layers.experts.gate": "experts.gate_up_proj",
      "layers.experts.up": "experts.gate_up_proj",
      "layers.experts.down": "experts.down_proj",
    },
    rope_by_kind=True,
    heads_by_kind=True,
    only_in_5=True,
    wrapper="gemma4",
    gguf=GgufNames(
      architecture="gemma4",
      activation="gelu_tanh",
      defaults={
        "attention.sliding_window": None,
        "attention.sliding_window_pattern": None,
        "final_logit_softcapping": 30.0,
      },
    ),
  ),
)
