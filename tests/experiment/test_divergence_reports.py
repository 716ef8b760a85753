"""What a run reports of clients that diverged; runs are in test_run.py."""

from quped_jax.experiment import divergence_reports
from quped_jax.simulation.divergence import DivergenceReport


def report(client, undone, longest):
  return DivergenceReport(
    client=client, undone=undone, streak=longest, longest=longest, last=undone
  )


def test_a_note_counts_rounds_and_names_who_diverged_often():
  assert divergence_reports.note([report(4, 2, 1)]) == (
    "client 4 diverged; 2 of their rounds are undone"
  )
  assert divergence_reports.note([report(4, 2, 1), report(7, 5, 3)]) == (
    "clients 4, 7 diverged; 7 of their rounds are undone, 3 or more in a row "
    "of client 7"
  )


def test_of_many_clients_a_note_names_the_first():
  text = divergence_reports.note([report(i, 1, 1) for i in range(12)])
  assert text.startswith("clients 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more div")
