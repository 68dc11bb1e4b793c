"""Measures accuracy and generated tokens of students and other models on a question set.

    python -m greedy_prune_jax.jobs.evaluate --config=configs/evaluate.py --workdir=runs/evaluate \
      --config.models="('runs/student@all','smollm2-135m-instruct')" --config.questions=gsm8k

Prints accuracy with its standard error and 95% interval, generated reasoning tokens, and the share
of replies that were cut off, a row a model and checkpoint; and each against the first, question by
question. A student is asked in the chat template, and told the keep ratio in the form, that it was
trained with. Run the same command again after a kill and it goes on from where it was; models that
are added answer the same questions.

As it stands: 4 `gsm_symbolic` questions to SmolLM2-135M-Instruct, minutes on 2 CPU cores.
Whether a model still answers from pruned chains is asked by `configs/evaluate_pruned.py`.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()

  # The models.
  # Each is `[NAME=]PLACE[@WHICH]`. PLACE is the workdir of a distill run, whose checkpoint
  # WHICH is: last, best, all, or a step; or a folder, a GGUF file, a hub id, an offline name.
  config.models = ("smollm2-135m-instruct",)
  config.follow = False  # evaluate every checkpoint of a training as it appears, until it is over
  config.idle_minutes = 60.0  # or until there was no new one for so long
  config.chat_template = ""  # a student's as trained, else the tokenizer's; plain; a Jinja file
  config.ratio_form = ""  # how models (not workdirs, which know) are told the ratio; see distill
  config.keep_ratios = ()  # that are told, each a row; (): those that a student was trained with
  config.dtype = "float32"  # of the weights: float32 or bfloat16

  # The questions.
  config.questions = "gsm_symbolic"  # a question set's name, or NAME:PATH for local rows
  config.split = "test"  # train or test, of sets that have both
  config.num_questions = 0  # 0: all; of gsm_symbolic, which has no end, 4
  config.num_shots = 0  # worked solutions of other questions shown first; base models need some
  config.seed = 0  # of the questions' order, and of every sample's randomness

  # Their writing.
  config.num_samples = 1  # a question
  config.temperature = 0.0  # 0: the likeliest token each time
  config.top_p = 1.0  # the likeliest tokens that have this probability together; 1: all
  config.top_k = 0  # so many of the likeliest tokens; 0: all
  config.max_new_tokens = 320  # longer replies are cut off; what they said before counts
  # auto: as a student was trained, else where the template opens every reply with a tag.
  config.thinking = "auto"
  config.max_thinking_tokens = 4096  # of the thinking before a reply
  config.force_answer = False  # write the closing tag for a model that does not end its thinking
  config.stop_strings = ()  # a reply ends before the first of these

  # The comparison.
  config.compare_with = ()  # workdirs of other evaluate runs, on the same questions

  # The run; none of these changes a reply.
  config.batch_size = 0  # replies written at once; 0: chosen from the devices' memory
  config.mesh = config_dict.ConfigDict()  # of the devices of each process; 0: all that are left
  config.mesh.data = 0  # replies side by side
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.show_samples = 4  # print the answers to so many questions of the first model at the end
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  return config
