"""Do students of greedily pruned chains beat students of chains shortened by other means? On a CPU.

    python -m greedy_prune_jax.jobs.study --config=configs/study_cpu.py --workdir=runs/study

SmolLM2-135M-Instruct is pruner and student, on `gsm_symbolic` questions of templates with short
solutions: chains, every offline ranking at four keep ratios, students with the same number of steps
on each from three seeds, their answers to questions of the same templates with other numbers and of
templates that no student saw, and one table and plot of accuracy against generated reasoning tokens
(`study.md`, `study.png`), with no pruning and answers only as the ends.

It can be killed, and goes on with the same command. Start the command twice, on one machine or on
two that share the folder under one path, and the processes share the parts out.

As it stands that is 114 students. On a shared 2-core AMD EPYC one of them with its tests took some
5 minutes of a core, and pruning about 2.5 hours of one in all: 13 hours together. Students come
keep ratio by keep ratio, so that the first 33 make a whole comparison at 0.7 and the next 27 one at
0.9. README has the result.
`--config=configs/study_cpu.py:smoke` makes all of it tiny and took 3 minutes there on one core, 2
with the compiled programs at hand: it shows that the parts work, no more.
"""

from ml_collections import config_dict

from greedy_prune_jax.configs import distill, drp, evaluate, prune

# The templates with the shortest questions and worked solutions: 113 to 137 of SmolLM2's tokens,
# 40 of which ask for the answer's form. Four are trained on: of more, few steps teach too little
# for arms to differ.
_TRAINED = "gsm_symbolic@43,10,58,16"
_HELD_OUT = "gsm_symbolic@26,6,72,50"

# What each arm changes in `prune`: every ranking that needs nothing but the pruner. Those that are
# not greedy are scored at the keep ratios alone, for the record; students do not see it.
_OTHERS = (
  *("random", "keep_first", "keep_last", "numbers_first"),
  *("surprisal", "attention", "gradient"),
)
ARMS = {
  "greedy_joint": {"objective": "joint"},
  "greedy_answer": {"objective": "answer"},
} | {ranking: {"ranking": ranking, "deletions_per_step": 1000} for ranking in _OTHERS}


def get_config(mode: str = "") -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`. `smoke` makes all of it tiny."""
  config = config_dict.ConfigDict()

  # The chains that every arm starts from.
  config.chains = _TRAINED  # a question set with solutions, a chains file, a workdir of sample
  config.num_chains = 64  # none of whose questions is in a test
  config.max_reasoning_tokens = 40  # of the pruner; longer ones are not taken; 0: no limit
  config.chains_seed = 0  # of a question set's order
  # Every seed of the students has chains and a ranking_seed of its own, which are pruned anew; the
  # seed by which chains are drawn is then chains_seed plus the student's. False: all have the same.
  config.fresh_chains = False

  # The base model.
  # A model that is trained first, which arms and students can name as `base`: what it changes in
  # `distill`. Empty: none. See configs/study_planted.py.
  config.base = config_dict.ConfigDict()

  # The arms.
  # Changes of each arm in `prune`.
  config.arms = config_dict.ConfigDict(ARMS)
  config.reference = "greedy_joint"  # the arm whose differences to all others are told
  config.keep_ratios = (0.7, 0.9, 0.5, 0.3)  # of every arm, in the order in which students come
  # Arms whose chains a teacher edits: what each changes in `drp`. See configs/study_drp.py.
  config.edited = config_dict.ConfigDict()
  # Chains that are trained on as they are, by arm: what other jobs made of `chains/chains.jsonl`.
  config.ready = config_dict.ConfigDict()

  # The students.
  # Changes of each in `distill`.
  config.students = config_dict.ConfigDict({"smollm2": {"student": "smollm2-135m-instruct"}})
  config.seeds = (0, 1, 2)  # of the training

  # The tests.
  # Changes of each in `evaluate`.
  config.tests = config_dict.ConfigDict(
    {
      "same_templates": {"questions": _TRAINED, "num_questions": 80},
      "held_out_templates": {"questions": _HELD_OUT, "num_questions": 40},
    }
  )

  # Common to all arms, students and tests.
  config.prune = prune.get_config()  # settings of `prune`
  config.drp = drp.get_config()  # settings of `drp`
  config.distill = distill.get_config()  # settings of `distill`
  config.evaluate = evaluate.get_config()  # settings of `evaluate`
  config.update(
    {
      "prune": {"batch_size": 8},  # short chains fill a core only together
      "distill": {
        "epochs": 0.0,
        "steps": 16,  # 2 epochs
        "batch_size": 8,
        "lora_rank": 16,  # learns more from as many steps here than all weights do, and faster
        "learning_rate": 2e-3,
        "warmup_steps": 4,
        "save_every": 16,
        "keep_checkpoints": 1,
        "show_progress": False,
      },
      "evaluate": {"max_new_tokens": 64},
    }
  )

  # The run; none of these changes a result.
  config.keep_students = False  # else the checkpoints of all students stay, 60 MB each
  config.poll_seconds = 10.0  # between two looks whether other processes have done their parts
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  if mode == "smoke":
    _shrink(config)
  elif mode:
    raise ValueError(f"mode={mode!r}; expected smoke or nothing")
  return config


def _shrink(config: config_dict.ConfigDict) -> None:
  """Makes a study that takes minutes: two arms, one ratio, one seed, two steps, few questions."""
  config.num_chains = 2
  config.max_reasoning_tokens = 32
  config.tests = config_dict.ConfigDict(
    {"same_templates": {"questions": _TRAINED, "num_questions": 2}}
  )
  shrink_parts(config)


def shrink_parts(config: config_dict.ConfigDict) -> None:
  """Makes arms, students and their answers few and small."""
  config.arms = config_dict.ConfigDict({name: ARMS[name] for name in ("greedy_joint", "keep_last")})
  config.keep_ratios = (0.9,)
  config.seeds = (0,)
  config.update(
    {
      "distill": {"steps": 2, "batch_size": 2, "lora_rank": 4},
      "evaluate": {"max_new_tokens": 16},
    }
  )
