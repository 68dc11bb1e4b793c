"""Lets SmolLM2-135M-Instruct answer questions, and keeps the chains that reach the right answer.

    python -m greedy_prune_jax.jobs.sample --config=configs/sample.py --workdir=runs/sample
    python -m greedy_prune_jax.jobs.prune --config=configs/prune.py --workdir=runs/prune \
      --config.chains=runs/sample

As it stands: 4 samples each of 4 `gsm_symbolic` questions, a few minutes on 2 CPU cores. SmolLM2
seldom gets one right; the summary at the end says how often. Run the same command again after a
kill and it goes on from where it was: no sample is asked for twice.
"""

from ml_collections import config_dict

from greedy_prune_jax.teachers.settings import EndpointSettings


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()

  # The questions.
  config.questions = "gsm_symbolic"  # a question set's name, or NAME:PATH for local rows
  config.split = "train"  # train or test, of sets that have both
  config.num_questions = 0  # number of questions; 0: all, but 4 of the endless gsm_symbolic
  config.num_shots = 0  # worked solutions of other questions shown first; base models need some
  config.instruction = ""  # text behind the set's own instruction; chains do not contain it
  config.seed = 0  # seed of the questions' order and of every sample

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
  config.num_samples = 4  # samples of a question
  config.temperature = 0.7  # 0: always the likeliest token, with num_samples=1
  config.top_k = 0  # draw from this many of the likeliest tokens; 0: all
  config.top_p = 0.95  # of those, from the likeliest with this share of their probability; 1: all
  config.max_new_tokens = 320  # most tokens of a reply; longer ones are cut off, and not kept
  # auto: only where the template opens every reply with a tag; on or off asks for it.
  config.thinking = "auto"
  config.max_thinking_tokens = 4096  # most tokens of the thinking before a reply
  config.force_answer = False  # write the closing tag for a model that does not end its thinking
  config.stop_strings = ()  # texts before which a reply ends

  # The run; none of these changes a reply.
  config.batch_size = 0  # replies written at once; 0: chosen from the devices' memory
  config.mesh = config_dict.ConfigDict()  # devices of each process; 0: all that are left
  config.mesh.data = 0  # devices that write replies side by side
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.show_samples = 4  # number of questions of which two samples are printed at the end
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  return config
