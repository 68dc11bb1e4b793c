"""Has a teacher split chains into steps, edit the steps, and write shorter chains of them (DRP).

    python -m greedy_prune_jax.jobs.drp --config=configs/drp.py --workdir=runs/drp \
      --config.chains=runs/sample --config.teacher=openai \
      --config.endpoint.model=MODEL --config.endpoint.base_url=http://localhost:8000/v1
    python -m greedy_prune_jax.jobs.distill --config=configs/distill.py --workdir=runs/student \
      --config.chains=runs/drp --config.keep_ratios="(1.0,)"

With --config.dry_run=True it only says how many requests and tokens that will take. As it stands,
SmolLM2 is asked about 4 `gsm_symbolic` chains, minutes on 2 CPU cores; it is too small for this,
and the summary at the end says how often its replies passed. Steps by rules, without any teacher,
for `prune` with unit=skill_step: --config.stages="('decompose',)" --config.splitter=rules. Run the
same command again after a kill and it goes on from where it was: nothing is asked for twice.
"""

from ml_collections import config_dict

from greedy_prune_jax.chains.formats import ColumnSettings
from greedy_prune_jax.teachers.settings import EndpointSettings


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()

  # The chains.
  # A file, a folder, a workdir, a split on the hub (hf:ORG/NAME:SPLIT), or a question set's name.
  config.chains = "gsm_symbolic"
  # A file's own names of question, response, ...: see ColumnSettings for each.
  config.columns = config_dict.ConfigDict(ColumnSettings.defaults())
  config.num_chains = 0  # number of chains; 0: all, but 4 of the endless gsm_symbolic
  config.seed = 0  # seed of a question set's order and of every reply

  # The stages.
  config.stages = ("decompose", "edit", "write")  # these, or some that follow each other
  config.splitter = "teacher"  # source of the steps: `teacher` or `rules`
  config.stored = ""  # drp workdir to take earlier stages from, where this one has none

  # The teacher.
  # A folder of a model or a LoRA adapter, a GGUF file, a hub id, an offline name; or `openai`: an
  # OpenAI-compatible endpoint.
  config.teacher = "smollm2-135m-instruct"
  config.chat_template = "tokenizer"  # the model's own; `plain` for base models; or a Jinja file
  config.dtype = "float32"  # dtype of the weights: float32 or bfloat16

  # The endpoint.
  # Where teacher=openai asks; see EndpointSettings.
  config.endpoint = config_dict.ConfigDict(EndpointSettings.defaults())

  # Its writing.
  config.temperature = 0.0  # 0: always the likeliest token
  config.top_k = 0  # draw from this many of the likeliest tokens; 0: all
  config.top_p = 1.0  # of those, from the likeliest with this share of their probability; 1: all
  config.max_new_tokens = 4096  # most tokens of a reply; longer ones are cut off, and refused
  # thinking=auto: only where the template opens every reply with a tag; on or off asks for it.
  config.thinking = "auto"
  config.max_thinking_tokens = 4096  # most tokens of the thinking before a reply
  config.force_answer = False  # write the closing tag for a model that does not end its thinking

  # Failures: replies that fail a check, and chains that cannot be used.
  config.max_attempts = 3  # most requests of a stage about a chain, the first included
  config.on_failure = "keep"  # after the last attempt: keep the chain as it was, or leave_out
  config.on_bad_chain = "error"  # error: stop; skip: record it in skipped.jsonl and go on

  # The run; none of these changes a result.
  config.dry_run = False  # True: only print what is left to ask for
  config.batch_size = 0  # replies written at once; 0: chosen from the devices' memory
  config.mesh = config_dict.ConfigDict()  # devices of each process; 0: all that are left
  config.mesh.data = 0  # devices that write replies side by side
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.show_chains = 2  # number of chains printed beside their new texts
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  return config
