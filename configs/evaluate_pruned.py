"""Does a model still reach the answer from pruned chains?

    python -m greedy_prune_jax.jobs.evaluate_pruned --config=configs/evaluate_pruned.py \
      --workdir=runs/evaluate_pruned --config.pruned="('joint=runs/prune',)"

Prints accuracy with 95% intervals over questions for every prune run that is named, at every keep
ratio that it has and for the whole reasoning. Run the same command again after a kill and it goes
on from where it was; chains that the runs gained since are added.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()

  # The chains.
  config.pruned = ("runs/prune",)  # workdirs of prune runs, as DIR or NAME=DIR
  config.num_chains = 0  # of each run, in the order of their ids; 0: all

  # The model.
  # A folder of a model or a LoRA adapter, a GGUF file, a hub id, or an offline name.
  config.model = "smollm2-135m-instruct"
  config.chat_template = "tokenizer"  # the model's own; `plain` for base models; or a Jinja file
  config.dtype = "float32"  # dtype of the weights: float32 or bfloat16

  # The answers, greedy.
  config.begin_answer = True  # the answer's form is begun for it, so that it reasons no further
  config.max_new_tokens = 32  # most tokens of an answer; hundreds for models that think

  # The run; none of these changes a reply.
  config.batch_size = 0  # replies written at once; 0: chosen from the devices' memory
  config.mesh = config_dict.ConfigDict()  # devices of each process; 0: all that are left
  config.mesh.data = 0  # devices that write replies side by side
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  return config
