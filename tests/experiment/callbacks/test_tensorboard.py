"""TensorBoard's files, written by tensorboardX and read back."""

import time

import pytest

import quped_jax as qj
from tests.experiment.callbacks import told

event_pb2 = pytest.importorskip(
  "tensorboardX.proto.event_pb2", reason="tensorboardX is not installed"
)


def events(folder):
  """{tag: {step: value}} of scalars, tags of texts, and the steps to purge."""
  scalars, texts, purged = {}, {}, []
  for path in sorted(folder.glob("events.*")):
    data = path.read_bytes()
    # The last may not be whole yet.
    while len(data) > 16 + int.from_bytes(data[:8], "little") - 1:
      # The length, its checksum, the event, and the checksum of that.
      size = int.from_bytes(data[:8], "little")
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      if event.session_log.status == event_pb2.SessionLog.START:
        purged.append(event.step)
      for value in event.summary.value:
        if value.HasField("tensor"):
          texts[value.tag] = value.tensor.string_val[0].decode()
        else:
          scalars.setdefault(value.tag, {})[event.step] = value.simple_value
  return scalars, texts, purged


@pytest.mark.slow
def test_scalars_have_rounds_as_steps(tmp_path):
  told.play(qj.callbacks.TensorBoard(), tmp_path, range(1, 4), told.end())
  scalars, texts, _ = events(tmp_path / "tensorboard")
  assert scalars["test/quantized"] == dict.fromkeys((1, 2, 3), 0.5)
  assert set(scalars) == {
    "train/loss", "test/quantized", "test/global", "cost/seconds_per_round",
    "cost/bytes_up", "cost/bytes_down",
  }  # fmt: skip
  (text,) = texts.values()
  assert '"method": "quped"' in text


@pytest.mark.slow
def test_what_was_evaluated_can_soon_be_seen(tmp_path):
  callback = qj.callbacks.TensorBoard(tmp_path)
  callback.on_begin(told.start())
  callback.on_evaluation(told.evaluation(1))
  for _ in range(600):
    if "cost/bytes_down" in events(tmp_path)[0]:
      break
    time.sleep(0.1)
  assert events(tmp_path)[0]["train/loss"] == {1: 1.0}
  callback.on_end(told.end("error"))


@pytest.mark.slow
def test_a_run_that_goes_on_hides_what_came_later_before(tmp_path):
  for rounds in (range(1, 4), range(3, 5)):
    told.play(qj.callbacks.TensorBoard(), tmp_path, rounds, told.end())
  scalars, _, purged = events(tmp_path / "tensorboard")
  assert set(scalars["train/loss"]) == {1, 2, 3, 4}
  assert 3 in purged
