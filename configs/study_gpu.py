"""Students of pruned GSM8K chains, two small models each as pruner and as student, on one GPU.

    python -m greedy_prune_jax.jobs.study --config=configs/study_gpu.py --workdir=runs/study_gpu

SmolLM2-135M-Instruct and Gemma 3 270M (base) each prune 2,000 of GSM8K's training solutions (pass
`--config.chains=` a workdir of sample or a file of a teacher's own chains, where there are some:
students do better on these) and each learn from every arm. Not run yet, so no time is known; see
`configs/study_cpu.py` for what a study is and how processes share one. Without a network pass
`--config.chains=gsm8k:PATH` and `--config.tests.gsm8k.questions=gsm8k:PATH`.
`--config=configs/study_gpu.py:smoke` is tiny, and needs them too.
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import study_cpu

_GEMMA = {"chat_template": "plain"}  # a base model, which has no chat template of its own
_ASK_NO_PRUNER = ("random", "keep_first", "keep_last", "numbers_first")


def get_config(mode: str = "") -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`. `smoke` makes all of it tiny."""
  config = study_cpu.get_config()
  config.chains = "gsm8k"
  config.num_chains = 2000
  config.max_reasoning_tokens = 200

  by_gemma = {
    f"{arm}-by_gemma3": {**changes, **_GEMMA, "pruner": "gemma3-270m"}
    for arm, changes in study_cpu.ARMS.items()
    if arm not in _ASK_NO_PRUNER
  }
  config.arms = config_dict.ConfigDict({**study_cpu.ARMS, **by_gemma})
  config.students = config_dict.ConfigDict(
    {
      "smollm2": {"student": "smollm2-135m-instruct"},
      "gemma3": {"student": "gemma3-270m"} | _GEMMA,
    }
  )
  config.tests = config_dict.ConfigDict({"gsm8k": {"questions": "gsm8k", "num_questions": 0}})

  config.update(
    {
      "prune": {"dtype": "bfloat16", "batch_size": 0},
      "distill": {
        "compute_dtype": "bfloat16",
        "lora_rank": 0,
        "steps": 375,  # 3 epochs
        "batch_size": 16,
        "learning_rate": 5e-5,
        "warmup_steps": 20,
        "save_every": 125,
      },
      "evaluate": {"dtype": "bfloat16", "max_new_tokens": 320},
    }
  )

  if mode == "smoke":
    _shrink(config)
  elif mode:
    raise ValueError(f"mode={mode!r}; expected smoke or nothing")
  return config


def _shrink(config: config_dict.ConfigDict) -> None:
  """Makes a study that takes minutes, of SmolLM2 alone."""
  config.num_chains = 2
  config.max_reasoning_tokens = 40
  config.students = config_dict.ConfigDict({"smollm2": {"student": "smollm2-135m-instruct"}})
  config.update({"tests": {"gsm8k": {"num_questions": 2}}})
  study_cpu.shrink_parts(config)
