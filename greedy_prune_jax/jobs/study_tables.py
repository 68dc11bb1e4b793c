"""Makes the tables and the plot of a study anew from the answers of its students.

python -m greedy_prune_jax.jobs.study_tables --answers=FILE --reference=ARM --workdir=DIR

Seeds or arms that ran elsewhere are put together: --answers=FILE,FILE.
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

import sys
from collections.abc import Sequence

from absl import app, flags

from greedy_prune_jax.errors import UserError, check_plots
from greedy_prune_jax.jobs.entry import define_paths, print_result
from greedy_prune_jax.reports.tables import format_table
from greedy_prune_jax.runs.files import make_folder, user_path
from greedy_prune_jax.study.run import write_results

_answers = define_paths("answers", "A study's answers.parquet files")
_REFERENCE = flags.DEFINE_string("reference", "greedy_joint", "The arm of the differences.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for tables and plot.", required=True)


def study_tables(answers: Sequence[str], reference: str, workdir: str) -> None:
  """Runs the job and prints the tables.

  Raises:
    UserError: the answers cannot be read, are of other arms than the reference, or the folder
      cannot be written.
  """
  check_plots()
  paths, folder = list(map(user_path, answers)), user_path(workdir)
  make_folder(folder)
  for table in write_results(paths, reference, folder, is_whole=True):
    print_result(format_table(table) + "\n")


def _main(_: object) -> None:
  try:
    study_tables(_answers(), _REFERENCE.value, _WORKDIR.value)
  except UserError as error:
    sys.exit(str(error))


if __name__ == "__main__":
  app.run(_main)
