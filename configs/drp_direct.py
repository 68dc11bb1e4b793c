"""Baseline of DRP: the short teacher's own answers, for students to learn directly.

    python -m greedy_prune_jax.jobs.sample --config=configs/drp_direct.py \
      --workdir=runs/drp_direct --config.endpoint.model=MODEL \
      --config.endpoint.base_url=http://localhost:8000/v1
    python -m greedy_prune_jax.jobs.distill --config=configs/drp_student.py:direct \
      --workdir=runs/drp_student_direct

The teacher that `configs/drp.py` asks to edit chains answers the same questions itself; of each
question one answer that is right is kept. One request a question; the budget is of `endpoint`.
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import sample


def get_config() -> config_dict.ConfigDict:
  """The settings of `configs/sample.py`, with a teacher at an endpoint."""
  config = sample.get_config()
  config.update(
    {
      "questions": "gsm8k",
      "num_questions": 1000,
      "teacher": "openai",
      "num_samples": 1,
      "temperature": 0.0,
      "top_p": 1.0,
      "max_new_tokens": 1024,
    }
  )
  return config
