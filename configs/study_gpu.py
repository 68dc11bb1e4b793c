"""Students of shortened thinking, on one GPU: a 1.5B model that thinks, on GSM8K and MATH.

    for SET in gsm8k math; do
      python -m greedy_prune_jax.jobs.sample --config=configs/sample.py --workdir=runs/r1_$SET \
        --config.questions=$SET --config.num_questions=1000 --config.max_new_tokens=2048 \
        --config.teacher=deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --config.dtype=bfloat16
    done
    cat runs/r1_gsm8k/chains/*.jsonl runs/r1_math/chains/*.jsonl > runs/thinking.jsonl
    python -m greedy_prune_jax.jobs.study --config=configs/study_gpu.py --workdir=runs/study_gpu

The model prunes its own chains, sentence by sentence, and learns from what is left: five seeds, all
arms at four keep ratios, tested on test questions of GSM8K and MATH, with differences at equal keep
ratio and at equal written length. Not run yet, so no time is known; see `configs/study_cpu.py` for
what a study is and how processes share one. `--config=configs/study_gpu.py:smoke` shows with
SmolLM2 on `gsm_symbolic` that the parts work.
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import study_cpu

_MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"

ARMS = study_cpu.ARMS | {
  ranking: {"ranking": ranking, "deletions_per_step": 1000}
  for ranking in ("answer_attention", "surprisal_attention", "step_entropy", "step_surprisal")
}


def get_config(mode: str = "") -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`. `smoke` makes all of it tiny."""
  config = study_cpu.get_config()
  config.chains = "runs/thinking.jsonl"
  config.num_chains = 1000
  config.max_reasoning_tokens = 2000
  config.seeds = (0, 1, 2, 3, 4)
  config.arms = config_dict.ConfigDict(ARMS)
  config.students = config_dict.ConfigDict({"r1": {"student": _MODEL}})
  config.tests = config_dict.ConfigDict(
    {name: {"questions": name, "num_questions": 500} for name in ("gsm8k", "math")}
  )
  config.update(
    {
      "prune": {
        "pruner": _MODEL,
        "unit": "sentence",
        "search": "screened",
        "dtype": "bfloat16",
        "batch_size": 0,
      },
      "distill": {
        "compute_dtype": "bfloat16",
        "remat": "dots",
        "lora_rank": 0,
        "max_length": 4096,
        "steps": 190,  # 3 epochs
        "batch_size": 16,
        "num_parts": 4,
        "learning_rate": 1e-5,
        "warmup_steps": 10,
        "save_every": 95,
      },
      "evaluate": {"dtype": "bfloat16", "max_new_tokens": 2048},
    }
  )
  if mode == "smoke":
    _shrink(config)
  elif mode:
    raise ValueError(f"mode={mode!r}; expected smoke or nothing")
  return config


def _shrink(config: config_dict.ConfigDict) -> None:
  """Makes a study that takes minutes, of SmolLM2."""
  smollm2 = "smollm2-135m-instruct"
  config.chains = "gsm_symbolic"
  config.num_chains = 2
  config.max_reasoning_tokens = 40
  config.students = config_dict.ConfigDict({"smollm2": {"student": smollm2}})
  config.tests = config_dict.ConfigDict(
    {"gsm_symbolic": {"questions": "gsm_symbolic", "num_questions": 2}}
  )
  config.update({"prune": {"pruner": smollm2}, "distill": {"num_parts": 1}})
  study_cpu.shrink_parts(config)
