"""Trains a student on pruned chains.

    python -m greedy_prune_jax.jobs.distill --config=configs/distill.py --workdir=runs/distill \
      --config.chains=runs/prune --config.keep_ratios="(0.5,)"

The student learns question -> pruned reasoning and answer, with a loss on these alone. A workdir
of this run holds checkpoints, `metrics.jsonl`, TensorBoard's files, and at the end the student as a
Hugging Face folder, `export`. A run that was stopped goes on when the same command is run again,
with the losses that it would have had. With --config.lora_rank=16 only thin matrices beside the
weights are trained (set a learning rate about ten times higher then).
"""

from ml_collections import config_dict

from greedy_prune_jax.chains.formats import ColumnSettings


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()

  # The chains.
  config.chains = "runs/prune"  # a prune workdir; any chains file if keep_ratios are 1 and 0 only
  # A file's own names of question, response, ...: see ColumnSettings for each.
  config.columns = config_dict.ConfigDict(ColumnSettings.defaults())
  config.num_chains = 0  # the first by their ids; 0: all; of gsm_symbolic, which has no end, 4
  config.num_validation = 0  # chains held out; which ones depends on their ids and the seed alone
  config.keep_ratios = (0.5,)  # 1: all of the reasoning, 0: answer only; several: drawn each epoch
  config.ratio_form = ""  # tells the ratio: "{question}\n\nKeep {ratio} of the reasoning."
  config.max_length = 1024  # tokens; longer examples are left out, into skipped.jsonl
  config.seed = 0  # of the order, the draws, the held-out chains and LoRA's start

  # The student.
  config.student = "smollm2-135m-instruct"  # a folder, a GGUF file, a hub id, or an offline name
  # Random weights of this shape instead of the student's own, "random:layers=3,width=128". The
  # student then names a tokenizer alone: planted-characters, planted-words, or any model's.
  config.init = ""
  config.chat_template = "tokenizer"  # the model's own; `plain` for base models; or a Jinja file
  # auto: with thinking where a chain has it and the student's template a form; on, off: all, none
  config.thinking = "auto"
  config.dtype = "float32"  # of the weights that are kept
  config.compute_dtype = "float32"  # of the products; bfloat16 on accelerators
  config.lora_rank = 0  # 0: all weights are trained
  config.lora_alpha = 32.0  # LoRA's change is scaled by alpha / rank
  # Matrices that LoRA changes.
  config.lora_targets = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
  )

  # The training.
  config.steps = 0  # updates; 0: by epochs
  config.epochs = 3.0  # over the training chains; 0: by steps
  config.batch_size = 16  # examples a step
  config.num_parts = 1  # of a batch, run one after the other to save memory
  config.optimizer = "adamw"  # adamw or adafactor
  config.learning_rate = 2e-5  # the highest, after warming up; about ten times more for LoRA
  config.schedule = "cosine"  # cosine or constant
  config.warmup_steps = 10  # steps in which the learning rate rises from 0
  config.final_fraction = 0.1  # of the learning rate, where the cosine ends
  config.weight_decay = 0.0  # share of each weight that is taken off, times the learning rate
  config.b1 = 0.9  # of AdamW: decay of the gradients' mean
  config.b2 = 0.95  # of AdamW: decay of the squared gradients' mean
  config.max_grad_norm = 1.0  # 0: gradients are not clipped

  # The checkpoints.
  config.save_every = 100  # steps between checkpoints, and validations
  config.keep_checkpoints = 2  # the last so many, and the one of the best validation loss
  config.patience = 0  # stop after so many validations without a better one; 0: never
  config.export = "last"  # last, best or none: which checkpoint becomes a Hugging Face folder

  # The run; none of these changes what is learned, but for rounding.
  config.mesh = config_dict.ConfigDict()  # of all processes' devices; 0: all that are left
  config.mesh.data = 0  # rows of a batch side by side
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.fully_sharded = (
    False  # weights and optimiser state split over mesh.data too; see docs/distill.md
  )
  config.remat = "none"  # none; dots: all but products is computed again; full: all of a layer
  config.show_progress = True  # a bar with the loss
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  return config
