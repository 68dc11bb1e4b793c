"""Students of DRP and of its baselines: the same training on the chains of each.

    python -m greedy_prune_jax.jobs.distill --config=configs/drp_student.py:ARM --workdir=DIR

ARM is one of

    drp           chains that a teacher edited (configs/drp.py)
    steps         chains of which whole steps left by likelihood (configs/drp_steps.py)
    direct        the teacher's own short answers (configs/drp_direct.py)
    token_budget  answers to prompts with a token budget (configs/drp_token_budget.py)
    unpruned      the chains as they were sampled (configs/sample.py)
    answer_only   the same without any reasoning

One table of all of them is made by `study` with configs/study_drp.py.
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import distill

# Of each arm, what its chains are and how much of their reasoning the student sees.
ARMS = {
  "drp": ("runs/drp", 1.0),
  "steps": ("runs/drp_steps", 0.5),
  "direct": ("runs/drp_direct", 1.0),
  "token_budget": ("runs/drp_token_budget", 1.0),
  "unpruned": ("runs/sample", 1.0),
  "answer_only": ("runs/sample", 0.0),
}


def get_config(arm: str = "drp") -> config_dict.ConfigDict:
  """The settings of `configs/distill.py`, on the chains of an arm."""
  if arm not in ARMS:
    raise ValueError(f"no arm {arm!r}; expected one of {', '.join(ARMS)}")
  config = distill.get_config()
  config.chains, ratio = ARMS[arm]
  config.keep_ratios = (ratio,)
  return config
