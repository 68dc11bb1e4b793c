"""Students of planted chains, from random weights: the best order of deletion for short chains.

    python -m greedy_prune_jax.jobs.study --config=configs/study_planted.py --workdir=runs/planted

A model of 0.5 million parameters learns sums of five steps from random weights; it prunes new
chains by every ranking, and students that start from it learn what is left. Chains of the set
`planted` say of each token why it is there: needed results, copied operands, labels, fillers,
restatements, distractors, corrections; so `analyze` can tell of each ranking what it found:

    python -m greedy_prune_jax.jobs.analyze --config=configs/analyze.py --workdir=runs/found \\
      --config.parts="('needed','orders')" \\
      --pruned=runs/planted/prune/greedy_joint,runs/planted/prune/greedy_answer

It can be killed and goes on with the same command; started twice, the processes share the parts
out. `--config=configs/study_planted.py:pilot` has fewer arms, ratios, seeds and questions, `:smoke`
is tiny and shows that the parts work, no more. `:other` trains students of another model than the
pruner too, on chains that the study has pruned, in its folder. Tables there are then of four arms
and both models; the study's command makes its own again. That model comes first:

    python -m greedy_prune_jax.jobs.distill --config=configs/distill.py \\
      --workdir=runs/planted_other --config.chains=planted --config.num_chains=12000 \\
      --config.seed=101 --config.keep_ratios="(1.0,)" --config.student=planted-characters \\
      --config.init=random:layers=4,width=96 --config.epochs=0.0 --config.steps=2400 \\
      --config.batch_size=64 --config.learning_rate=2e-3 --config.warmup_steps=50
    python -m greedy_prune_jax.jobs.study --config=configs/study_planted.py:other \\
      --workdir=runs/planted
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import study_cpu

_TASK = "planted"  # in letters: five steps, some 60 tokens, all kinds of pieces

_RANKINGS = (
  *("oracle", "random", "random_places", "numbers_first"),
  *("step_entropy", "answer_attention", "surprisal", "surprisal_attention"),
)
ARMS = {
  "greedy_joint": {"objective": "joint"},
  "greedy_runs": {"objective": "joint", "search": "runs"},
  "greedy_answer": {"objective": "answer"},
} | {ranking: {"ranking": ranking, "deletions_per_step": 1000} for ranking in _RANKINGS}
_PILOT_ARMS = ("greedy_joint", "greedy_answer", "oracle", "random", "numbers_first")
_OTHER_ARMS = ("greedy_joint", "oracle", "random", "numbers_first")


def get_config(mode: str = "") -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`. See above for the modes."""
  config = study_cpu.get_config()
  config.chains = _TASK
  config.num_chains = 1000  # 200 teach students too little: docs/measured.md
  config.max_reasoning_tokens = 0
  config.fresh_chains = True
  config.keep_ratios = (0.7, 0.9, 0.5)
  config.seeds = tuple(range(10))

  # The model that solves the task: chains of its own seed, which no arm and no test has.
  config.base = config_dict.ConfigDict(
    {
      "chains": _TASK,
      "num_chains": 12_000,
      "seed": 100,
      "keep_ratios": (1.0,),
      "student": "planted-characters",
      "init": "random:layers=3,width=128",
      "steps": 2400,
      "batch_size": 64,
      "learning_rate": 2e-3,
      "warmup_steps": 50,
      "save_every": 400,
    }
  )
  config.arms = config_dict.ConfigDict(ARMS)
  config.students = config_dict.ConfigDict({"base": {"student": "base"}})
  config.tests = config_dict.ConfigDict(
    {"new_sums": {"questions": _TASK, "num_questions": 400, "split": "test"}}
  )
  config.update(
    {
      "prune": {"pruner": "base", "batch_size": 16},
      "distill": {
        "lora_rank": 0,
        "steps": 600,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "warmup_steps": 20,
        "save_every": 600,
      },
      "evaluate": {"max_new_tokens": 128, "batch_size": 64},
    }
  )

  if mode == "pilot":
    _shrink(config, arms=_PILOT_ARMS, keep_ratios=(0.7, 0.5), seeds=(0, 1))
    config.update({"tests": {"new_sums": {"num_questions": 200}}})
  elif mode == "other":
    _shrink(config, arms=_OTHER_ARMS, keep_ratios=config.keep_ratios, seeds=tuple(range(5)))
    config.students.other = config_dict.ConfigDict({"student": "runs/planted_other/export"})
  elif mode == "smoke":
    _shrink(config, arms=("greedy_joint", "oracle"), keep_ratios=(0.5,), seeds=(0,))
    config.num_chains = 4
    config.update(
      {
        "base": {"num_chains": 64, "steps": 4, "save_every": 4, "batch_size": 8},
        "tests": {"new_sums": {"num_questions": 4}},
        "distill": {"steps": 2, "batch_size": 4},
        "evaluate": {"max_new_tokens": 16},
      }
    )
  elif mode:
    raise ValueError(f"mode={mode!r}; expected pilot, other, smoke or nothing")
  return config


def _shrink(config: config_dict.ConfigDict, *, arms, keep_ratios, seeds) -> None:
  """Takes fewer arms, keep ratios and seeds."""
  config.arms = config_dict.ConfigDict({name: ARMS[name] for name in arms})
  config.keep_ratios, config.seeds = keep_ratios, seeds
