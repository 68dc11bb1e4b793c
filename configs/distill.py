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
  config.num_chains = 0  # the first by their ids; 0: all, but 4 of the endless gsm_symbolic
  config.num_validation = 0  # held-out chains, with all others of their questions
  # Shares of the reasoning to keep; 1: all, 0: the answer only. Of several, each epoch draws one
  # for each chain.
  config.keep_ratios = (0.5,)
  # Question with its ratio, such as "{question}\n\nKeep {ratio} of the reasoning."; empty: without.
  config.ratio_form = ""
  config.max_length = 1024  # most tokens of an example; longer ones go to skipped.jsonl
  config.seed = 0  # seed of order, draws, held-out chains and LoRA's start

  # The student.
  # A folder of a model or a LoRA adapter, a GGUF file, a hub id, or an offline name.
  config.student = "smollm2-135m-instruct"
  # Shape of random weights, such as "random:layers=3,width=128", instead of the student's own. Then
  # `student` only names a tokenizer: planted-characters, planted-words, or any model's.
  config.init = ""
  config.chat_template = "tokenizer"  # the model's own; `plain` for base models; or a Jinja file
  # auto: chains that think stay so if the student's template has a form of thinking; on: all think;
  # off: none does.
  config.thinking = "auto"
  config.dtype = "float32"  # dtype of the stored weights
  config.compute_dtype = "float32"  # dtype of products; set bfloat16 on accelerators
  config.lora_rank = 0  # rank of LoRA's matrices; 0: all weights are trained
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
  config.steps = 0  # number of updates; 0: `epochs` decides
  # Passes over the training chains, rounded to whole steps, one at least; the run's end says how
  # many were made. 0: `steps` decides.
  config.epochs = 3.0
  config.batch_size = 16  # examples of a step
  config.num_parts = 1  # parts of a batch, run one after the other to save memory
  config.optimizer = "adamw"  # adamw or adafactor
  config.learning_rate = 2e-5  # highest learning rate, after warm-up; take ten times more for LoRA
  config.schedule = "cosine"  # cosine or constant
  config.warmup_steps = 10  # steps in which the learning rate rises; fewer than the run has
  config.final_fraction = 0.1  # share of the learning rate that the cosine ends at
  config.weight_decay = 0.0  # times the learning rate: share of each weight that a step takes off
  config.b1 = 0.9  # AdamW's decay of the gradients' mean
  config.b2 = 0.95  # AdamW's decay of the squared gradients' mean
  config.mu_dtype = ""  # dtype of AdamW's mean, bfloat16 to save memory; empty: the weights'
  config.max_grad_norm = 1.0  # larger gradients are scaled to this norm; 0: none is

  # The checkpoints.
  config.save_every = 100  # steps between checkpoints, and between validations
  config.keep_checkpoints = 2  # number of latest checkpoints to keep, beside the best one
  config.patience = 0  # validations without a better loss after which training stops; 0: never
  config.export = "last"  # checkpoint that becomes a Hugging Face folder: last, best or none

  # The run; none of these changes what is learned, but for rounding.
  config.mesh = config_dict.ConfigDict()  # devices of all processes; 0: all that are left
  config.mesh.data = 0  # devices that share the rows of a batch
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.fully_sharded = (
    False  # split weights and optimiser state over mesh.data too; see docs/distill.md
  )
  # Parts of a layer that the backward pass computes again, to save memory: none (attention only),
  # dots (all but large products) or full (all).
  config.remat = "none"
  config.show_progress = True  # show a bar with the loss
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  return config
