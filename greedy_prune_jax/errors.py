"""The one exception that a user can cause."""

import importlib.util


class UserError(ValueError):
  """Something the user gave cannot be used: a file, a line of it, a setting, a model.

  The message says what was wrong and where, what was expected, and what to do. Jobs print it
  without a traceback and exit with status 1.
  """


def check_plots() -> None:
  """A UserError where no plot can be drawn."""
  if importlib.util.find_spec("matplotlib") is None:
    raise UserError(
      "this draws plots, for which matplotlib is missing; run: "
      "pip install 'greedy_prune_jax[analysis]'"
    )
