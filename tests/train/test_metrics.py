"""The record of a run: whole lines, cut back to the step that a run goes on from."""

import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from k25.train.metrics import FILE_NAME, JsonLines, TensorBoard, read_metrics

RECORDS = [
    {"step": step, "loss": 1 / step, "loss_by_source": {"a": 1.0}, "max_logit_by_layer": [3.0]} for step in (1, 2, 3)
]


def written(folder, records=RECORDS, from_step=0):
    lines = JsonLines(folder, from_step)
    for record in records:
        lines.write(record)
    lines.close()


def test_records_are_on_disk_line_by_line_while_the_run_goes_on(tmp_path):
    lines = JsonLines(tmp_path, 0)
    lines.write(RECORDS[0])
    assert [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()] == RECORDS[:1]
    lines.close()


def test_going_on_from_a_step_drops_what_came_after_it(tmp_path):
    written(tmp_path)
    written(tmp_path, [{"step": 2, "loss": 9.0}], from_step=1)
    assert read_metrics(tmp_path) == [RECORDS[0], {"step": 2, "loss": 9.0}]


def test_a_last_line_torn_by_a_crash_is_left_out_and_replaced(tmp_path):
    written(tmp_path, RECORDS[:2])
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"step": 3, "loss": 0.')
    assert read_metrics(tmp_path) == RECORDS[:2]
    written(tmp_path, RECORDS[2:], from_step=2)
    assert read_metrics(tmp_path) == RECORDS


def test_a_run_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_tensorboard_shows_scalars_by_name_by_source_and_by_layer(tmp_path):
    board = TensorBoard(tmp_path, 0)
    for record in RECORDS:
        board.write(record | {"skipped": "", "samples_skipped": {"a: not JSON": 2}})
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert {"loss", "loss_by_source/a", "max_logit_by_layer/0"} <= set(events.Tags()["scalars"])
