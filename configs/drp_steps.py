"""DRP without a teacher: whole steps leave by likelihood, in the order that greedy search finds.

    python -m greedy_prune_jax.jobs.prune --config=configs/drp_steps.py --workdir=runs/drp_steps \
      --config.chains=runs/sample
    python -m greedy_prune_jax.jobs.distill --config=configs/drp_student.py:steps \
      --workdir=runs/drp_student_steps

Steps are made by rules; --config.steps=runs/drp takes those that a teacher made. Steps are few, so
exact search is cheap. With --config.ranking=step_surprisal (ASAP) or answer_perplexity (LIMOPro)
they leave by the measures of others.
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import prune


def get_config() -> config_dict.ConfigDict:
  """The settings of `configs/prune.py`, with steps for units."""
  config = prune.get_config()
  config.unit = "skill_step"
  config.chains = "runs/sample"
  return config
