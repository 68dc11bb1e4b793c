"""Whole steps against single tokens, and against a teacher's edits where there is a teacher.

    python -m greedy_prune_jax.jobs.study --config=configs/study_drp.py --workdir=runs/study_drp
    python -m greedy_prune_jax.jobs.study --config=configs/study_drp.py:endpoint \
      --workdir=runs/study_drp --config.drp.endpoint.model=MODEL \
      --config.drp.endpoint.base_url=http://localhost:8000/v1

Offline and without a key, 50 `gsm_symbolic` chains go through steps by rules and deletion by
likelihood to students and their evaluation, beside the measures of ASAP and LIMOPro on the same
steps and token pruning; with `:endpoint` a teacher's DRP (all three stages) joins them. Students of
all arms have the same number of steps and the same tests, so that the table sets accuracy against
generated tokens. A short teacher's own answers (configs/drp_direct.py) and answers under a token
budget (configs/drp_token_budget.py) join by --config.ready. `:smoke` and `:endpoint_smoke` are
tiny. The whole was not run yet.
"""

from ml_collections import config_dict

from configs import study_cpu

# What each arm changes in `prune`.
ARMS = {
  "steps_answer": {"unit": "skill_step", "objective": "answer"},
  "steps_joint": {"unit": "skill_step", "objective": "joint"},
  "steps_surprisal": {"unit": "skill_step", "ranking": "step_surprisal"},
  "steps_perplexity": {"unit": "skill_step", "ranking": "answer_perplexity"},
  "tokens_answer": {"unit": "token", "objective": "answer"},
}


def get_config(mode: str = "") -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`. See above for `mode`."""
  if mode not in ("", "smoke", "endpoint", "endpoint_smoke"):
    raise ValueError(f"mode={mode!r}; expected smoke, endpoint, endpoint_smoke or nothing")
  config = study_cpu.get_config("smoke" if mode.endswith("smoke") else "")
  config.arms = config_dict.ConfigDict(ARMS)
  config.keep_ratios = (0.7, 0.5)
  config.seeds = (0,)
  config.num_chains = 50
  if mode.endswith("smoke"):
    config.arms = config_dict.ConfigDict({"steps_answer": ARMS["steps_answer"]})
    config.keep_ratios = (0.7,)
    config.num_chains = 2
  if mode.startswith("endpoint"):
    config.edited = config_dict.ConfigDict({"drp": {"teacher": "openai"}})
  return config
