"""Prunes chains of thought with SmolLM2-135M-Instruct by exact greedy search.

    python -m greedy_prune_jax.jobs.prune --config=configs/prune.py --workdir=runs/prune

As it stands: 4 `gsm_symbolic` chains to keep ratios 0.9, 0.7 and 0.5. Exact search runs N^2 / 2
positions a deletion for N reasoning tokens, so time grows with the cube of a chain's length: with
--config.max_reasoning_tokens=48 the four (30 to 36 tokens) took 3 minutes on 2 shared CPU cores,
compiling included; one of 113 tokens takes a quarter to half an hour there. Run the same command
again after a kill and it goes on from where it was.
"""

import dataclasses

from ml_collections import config_dict

from greedy_prune_jax.chains.formats import ColumnSettings
from greedy_prune_jax.search.screen import ScreenSettings
from greedy_prune_jax.teachers.settings import EndpointSettings


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()

  # The chains.
  # A file, a folder, a workdir, a split on the hub (hf:ORG/NAME:SPLIT), or a question set's name;
  # docs/formats.md lists the forms of rows.
  config.chains = "gsm_symbolic"
  # A file's own names of question, response, ...: see ColumnSettings for each.
  config.columns = config_dict.ConfigDict(ColumnSettings.defaults())
  config.chains_ratio = 1.0  # if chains are a prune workdir: keep ratio of its texts to go on from
  config.num_chains = 0  # number of chains; 0: all, but 4 of the endless gsm_symbolic
  config.seed = 0  # decides the order of a question set; files are read in their own order
  # Longer chains are left out, and do not count in num_chains. The time of exact search grows with
  # the cube of the length, that of screened search with its square. 0: no limit.
  config.max_reasoning_tokens = 0

  # The model that scores deletions.
  # A Hugging Face folder of a model or a LoRA adapter, a GGUF file, a hub id, or an offline name:
  # smollm2-135m-instruct, or gemma3-270m, a base model that needs chat_template=plain.
  config.pruner = "smollm2-135m-instruct"
  config.chat_template = "tokenizer"  # the model's own; `plain` for base models; or a Jinja file
  config.thinking = "auto"  # auto: as each chain says; on: all reasoning is thinking; off: none is
  config.dtype = "float32"  # dtype of the weights, float32 or bfloat16; sums, softmax are float32

  # The search.
  config.objective = "joint"  # joint: keep reasoning and answer likely; answer: the answer alone
  # exact: scores every candidate at every step; screened: scores only candidates that may win, for
  # long chains; runs: deletes whole passages, long ones first, which suits low keep ratios.
  config.search = "exact"
  # Estimates of search=screened and search=runs.
  config.screen = config_dict.ConfigDict(dataclasses.asdict(ScreenSettings()))
  # Deletions after one scoring, with every ranking. More take less time, but leave the NLLs between
  # them unknown.
  config.deletions_per_step = 1
  # With search=runs, most runs between two keep ratios; fewer take less time. 0: as many as make
  # the text more likely.
  config.max_runs = 0
  # With search=screened or runs, number of chains that exact search checks as well.
  config.audit = 0
  # The unit that one deletion removes: token; word (with the white space before it; 1,234.5 is one
  # word, and so is a sign); sentence (by rules; it ends with its line at the latest); or skill_step
  # (one operation of the reasoning, by rules or from `steps`).
  config.unit = "token"
  config.steps = ""  # drp workdir with the steps of unit=skill_step; empty: steps by rules
  config.ranking = "greedy"  # greedy: a search; or another order such as random: docs/rankings.md
  config.ranking_seed = 0  # seed of the rankings random, random_places and numbers_first
  # Layers that the rankings attention and answer_attention read, such as (0, 5, -1); (): all.
  config.attention_layers = ()
  config.attention_heads = ()  # heads of these layers; (): all
  config.attention_regression = ""  # file of the regression for the ranking attention_regression
  config.other_run = ""  # workdir of prune whose orders the ranking other_run follows
  config.llmlingua_model = ""  # classifier of the ranking llmlingua: a folder or a hub id
  config.text_model = ""  # model of the ranking text_model, as `teacher` in configs/sample.py
  # Where text_model=openai asks; see EndpointSettings.
  config.endpoint = config_dict.ConfigDict(EndpointSettings.defaults())
  # Shares r of the reasoning to keep: N * r of N tokens, rounded down. Units longer than a token
  # leave until at most so many tokens are left, perhaps none. One run to the lowest ratio gives all
  # others.
  config.keep_ratios = (0.9, 0.7, 0.5)
  # Conditions, separated by commas: nll:+0.1 (the objective's NLL rises by at most this),
  # answer:0.9 (the answer's probability is at least this), right (the pruner still writes the right
  # answer). budgets.jsonl gets the shortest text that meets each, down to the lowest keep ratio. A
  # finished run answers new ones.
  config.budget = ""
  config.budget_new_tokens = 64  # most new tokens for `right`; set more for thinking chains

  # The run. Attention, batch size and mesh change only the rounding of sums. So NLLs differ by
  # rounding errors, and two deletions that are closer than these can change places: rarely in
  # float32, but in bfloat16 orders do differ (docs/measured.md has the errors).
  config.attention = "xla"  # xla; or pallas: a fused kernel, not timed yet
  # Chains searched at once. 0: as many as a step can use and the memory holds (on a CPU, 2 GB for
  # chains): several short ones, one long one.
  config.batch_size = 0
  config.mesh = config_dict.ConfigDict()  # devices of each process; 0: all that are left
  config.mesh.data = 0  # devices that search chains of a batch side by side
  config.mesh.sequence = 1  # devices that share the positions of each chain; see docs/devices.md
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.on_bad_chain = "error"  # error: stop; skip: record the chain in skipped.jsonl and go on
  config.show_chains = 4  # number of chains printed at the end, with a table of mean NLLs
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  # The estimate.
  # True: print the cost of a run with the settings above; load no weights and write nothing.
  config.dry_run = False
  config.plan = config_dict.ConfigDict()  # devices of the estimate
  config.plan.device = ""  # h100, tpu-v5e, ...: see accelerators.py; empty: this machine's
  config.plan.num_devices = 0  # over all processes; 0: those of `mesh`, or all of this machine
  config.plan.peak_flops = 0.0  # FLOP/s of one device; 0: the maker's, or else measured
  config.plan.utilisation = 0.4  # share of the peak; measure it by a short run on such devices

  return config
