"""The one exception that a user can cause, and the check for packages that a user may lack."""

import importlib.util


class UserError(ValueError):
  """Something the user gave cannot be used: a file, a line of it, a setting, a model.

  The message says what was wrong and where, what was expected, and what to do. Jobs print it
  without a traceback and exit with status 1.
  """


def check_package(package: str, user: str, extra: str) -> None:
  """A UserError where a package is missing that `user`, who is named in it, needs of an extra."""
  if importlib.util.find_spec(package.replace("-", "_")) is None:
    raise UserError(
      f"{user} needs the package {package}; install it with: "
      f"pip install 'greedy_prune_jax[{extra}]'"
    )


def check_plots() -> None:
  """A UserError where no plot can be drawn."""
  check_package("matplotlib", "drawing plots", "analysis")
