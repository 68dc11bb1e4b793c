"""Baseline of DRP: the student's own model, told how many tokens it may use (as TALE does).

    python -m greedy_prune_jax.jobs.sample --config=configs/drp_token_budget.py:100 \
      --workdir=runs/drp_token_budget --config.teacher=MODEL
    python -m greedy_prune_jax.jobs.distill --config=configs/drp_student.py:token_budget \
      --workdir=runs/drp_student_token_budget

The number behind the colon is the budget. It stands in the prompt of the sample alone, so that the
student learns to be as brief without being told. TALE (arXiv 2412.18547) has a model estimate the
budget of each question; here it is one for all. The summary of `sample` tells accuracy and tokens
of the prompt by itself.
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import sample


def get_config(budget: str = "100") -> config_dict.ConfigDict:
  """The settings of `configs/sample.py`, with a budget of that many tokens in the prompt."""
  config = sample.get_config()
  config.questions = "gsm8k"
  config.num_questions = 1000
  config.instruction = (
    f"Be brief: solution and answer together must take less than {budget} tokens."
  )
  return config
