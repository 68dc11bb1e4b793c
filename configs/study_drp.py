"""Whole steps against single tokens, and against a teacher's edits where there is a teacher.

    python -m greedy_prune_jax.jobs.study --config=configs/study_drp.py --workdir=runs/study_drp
    python -m greedy_prune_jax.jobs.study --config=configs/study_drp.py:endpoint \
      --workdir=runs/study_drp --config.drp.endpoint.model=MODEL \
      --config.drp.endpoint.base_url=http://localhost:8000/v1

Offline and without a key, 50 `gsm_symbolic` chains go through steps by rules and deletion by
likelihood to students and their evaluation, beside the measures of ASAP and LIMOPro on the same
steps, and beside single tokens deleted greedily and by other rankings; with `:endpoint` a teacher's
DRP (all three stages) joins them. Students of all arms have the same number of steps and the same
tests, so that the table sets accuracy against generated tokens. A short teacher's own answers
(configs/drp_direct.py) and answers under a token budget (configs/drp_token_budget.py) join by
--config.ready. `:smoke` and `:endpoint_smoke` are tiny.
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import study_cpu

# Nine templates with short worked solutions, of 30 to 50 of SmolLM2's tokens, and three others.
_TRAINED = "gsm_symbolic@26,58,43,16,72,50,6,99,75"
_HELD_OUT = "gsm_symbolic@10,4,45"

# What each arm changes in `prune`.
ARMS = {
  **{
    name: study_cpu.ARMS[name] for name in ("greedy_joint", "greedy_answer", "random", "surprisal")
  },
  "steps_answer": {"unit": "skill_step", "objective": "answer"},
  "steps_surprisal": {"unit": "skill_step", "ranking": "step_surprisal"},
  "steps_perplexity": {"unit": "skill_step", "ranking": "answer_perplexity"},
}


def get_config(mode: str = "") -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`. See above for `mode`."""
  if mode not in ("", "smoke", "endpoint", "endpoint_smoke"):
    raise ValueError(f"mode={mode!r}; expected smoke, endpoint, endpoint_smoke or nothing")
  smoke = mode.endswith("smoke")
  config = study_cpu.get_config("smoke" if smoke else "")
  config.chains = _TRAINED
  config.update({"tests": {"same_templates": {"questions": _TRAINED}}})
  if smoke:
    config.arms = config_dict.ConfigDict({"steps_answer": ARMS["steps_answer"]})
    config.reference = "steps_answer"
    config.keep_ratios = (0.7,)
  else:
    config.arms = config_dict.ConfigDict(ARMS)
    config.keep_ratios = (0.6, 0.3)
    config.num_chains = 50
    config.max_reasoning_tokens = 56
    config.seeds = (0, 1)
    config.update(
      {
        "prune": {"dtype": "bfloat16"},
        "distill": {
          "compute_dtype": "bfloat16",
          "lora_rank": 0,
          "steps": 24,
          "save_every": 24,
          "learning_rate": 2e-4,
          "warmup_steps": 4,
        },
        "evaluate": {"dtype": "bfloat16", "max_new_tokens": 96},
        "tests": {
          "same_templates": {"num_questions": 100},
          "held_out_templates": {"questions": _HELD_OUT, "num_questions": 20},
        },
      }
    )
  if mode.startswith("endpoint"):
    config.edited = config_dict.ConfigDict({"drp": {"teacher": "openai"}})
  return config
