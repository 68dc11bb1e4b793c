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
  # WHICH is: last, best, all, or a step; or a folder of a model or a LoRA adapter, a GGUF file, a
  # hub id, an offline name.
  config.models = ("smollm2-135m-instruct",)
  config.follow = False  # True: evaluate each new checkpoint of a training until that ends
  config.idle_minutes = 60.0  # minutes without a new checkpoint after which `follow` ends
  config.chat_template = ""  # a student's as trained, else the tokenizer's; plain; a Jinja file
  config.ratio_form = ""  # form of the ratio for models, as in distill; students use their own
  config.keep_ratios = ()  # ratios told in turn, a row each; (): those of the training
  config.dtype = "float32"  # dtype of the weights; bfloat16 rounds away much of a small training

  # The questions.
  config.questions = "gsm_symbolic"  # a question set's name, or NAME:PATH for local rows
  config.split = "test"  # train or test, of sets that have both
  config.num_questions = 0  # number of questions; 0: all, but 4 of the endless gsm_symbolic
  config.num_shots = 0  # worked solutions of other questions shown first; base models need some
  config.seed = 0  # seed of the questions' order and of every sample

  # Their writing.
  config.num_samples = 1  # samples of a question
  config.temperature = 0.0  # 0: always the likeliest token
  config.top_k = 0  # draw from this many of the likeliest tokens; 0: all
  config.top_p = 1.0  # of those, from the likeliest with this share of their probability; 1: all
  config.max_new_tokens = 320  # most tokens of a reply; of longer ones, the beginning counts
  # auto: as a student was trained, else where the template opens every reply with a tag.
  config.thinking = "auto"
  config.max_thinking_tokens = 4096  # most tokens of the thinking before a reply
  config.force_answer = False  # write the closing tag for a model that does not end its thinking
  config.stop_strings = ()  # texts before which a reply ends

  # The comparison.
  config.compare_with = ()  # workdirs of other evaluate runs, on the same questions

  # The run; none of these changes a reply.
  config.batch_size = 0  # replies written at once; 0: chosen from the devices' memory
  config.mesh = config_dict.ConfigDict()  # devices of each process; 0: all that are left
  config.mesh.data = 0  # devices that write replies side by side
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.show_samples = 4  # number of questions whose answers by the first model are printed
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  return config
