from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from search_truth import true_accuracy

from search import Evaluation, collect_evaluations, read_evaluations
from search.evaluations import FILE, plan_subnets
from supernet import SubnetConfig
from supernet.errors import CheckpointError, ConfigError, RunBusyError, StorageError
from supernet.spaces import SearchSpace


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_manifest(tmp_path)
    return tmp_path


def write_manifest(folder: Path, weights: str = "aa", images: str = "bb") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"weights": {"sha256": weights}, "images": {"sha256": images}}))


class Evaluator:
    """Counts correct answers by the oracle, and is killed before a given call."""

    def __init__(self, space: SearchSpace, killed_at: int | None = None) -> None:
        self.space, self.killed_at, self.calls = space, killed_at, 0

    def __call__(self, config: SubnetConfig) -> Evaluation:
        if self.calls == self.killed_at:
            raise Killed
        self.calls += 1
        accuracy = true_accuracy(self.space, self.space.encode([config]))[0]
        return Evaluation(config, round(accuracy * 1000), 1000)


def without_seconds(evaluations: list[Evaluation]) -> list[Evaluation]:
    return [replace(one, seconds=0.0) for one in evaluations]


def test_the_plan_is_the_largest_the_smallest_and_different_random_subnets(tiny: SearchSpace) -> None:
    plan = plan_subnets(tiny, count=40, seed=0)
    assert plan[:2] == [tiny.largest(), tiny.smallest()]
    assert len(set(plan)) == 40
    assert plan == plan_subnets(tiny, count=300, seed=0)[:40]
    assert set(plan) & set(plan_subnets(tiny, count=40, seed=1)) == {tiny.largest(), tiny.smallest()}


@pytest.mark.parametrize("torn", [b"", b'{"config": {"space": "mobile'])
@pytest.mark.parametrize("killed_at", [0, 1, 7])
def test_killed_and_resumed_equals_uninterrupted(
    tiny: SearchSpace, tmp_path: Path, killed_at: int, torn: bytes
) -> None:
    write_manifest(tmp_path / "a")
    write_manifest(tmp_path / "b")
    whole = collect_evaluations(tmp_path / "a", Evaluator(tiny), space=tiny, count=12, seed=4)
    with pytest.raises(Killed):
        collect_evaluations(tmp_path / "b", Evaluator(tiny, killed_at), space=tiny, count=12, seed=4)
    with (tmp_path / "b" / FILE).open("ab") as file:
        file.write(torn)
    second = Evaluator(tiny)
    resumed = collect_evaluations(tmp_path / "b", second, space=tiny, count=12, seed=4)
    assert second.calls == 12 - killed_at
    assert without_seconds(resumed) == without_seconds(whole)
    assert without_seconds(read_evaluations(tmp_path / "b", space=tiny)) == without_seconds(whole)


def test_a_torn_header_is_written_anew(tiny: SearchSpace, run: Path) -> None:
    (run / FILE).write_bytes(b'{"format": "oncefor')
    assert len(collect_evaluations(run, Evaluator(tiny), space=tiny, count=3)) == 3
    assert len(read_evaluations(run, space=tiny)) == 3


def test_every_evaluation_is_on_disk_before_the_next_one_begins(tiny: SearchSpace, run: Path) -> None:
    lines_seen = []
    evaluator = Evaluator(tiny)

    def evaluate(config: SubnetConfig) -> Evaluation:
        lines_seen.append((run / FILE).read_bytes().count(b"\n"))
        return evaluator(config)

    collect_evaluations(run, evaluate, space=tiny, count=5)
    assert lines_seen == [1, 2, 3, 4, 5]  # the header is the first line


def test_a_larger_count_measures_only_what_is_missing(tiny: SearchSpace, run: Path) -> None:
    first = collect_evaluations(run, Evaluator(tiny), space=tiny, count=10)
    more = Evaluator(tiny)
    second = collect_evaluations(run, more, space=tiny, count=15)
    assert more.calls == 5
    assert second[:10] == first
    none = Evaluator(tiny)
    assert collect_evaluations(run, none, space=tiny, count=10) == first
    assert none.calls == 0


def test_lines_hold_what_a_person_needs(tiny: SearchSpace, run: Path) -> None:
    collect_evaluations(run, Evaluator(tiny), space=tiny, count=2)
    header, line, _ = [json.loads(text) for text in (run / FILE).read_text().splitlines()]
    assert header == {
        "format": "onceforall.evaluations/1",
        "space": "mobilenet_v3_tiny",
        "weights_sha256": "aa",
        "images_sha256": "bb",
    }
    assert line.keys() == {"config", "digest", "correct", "total", "seconds"}
    assert SubnetConfig.from_dict(line["config"]).digest == line["digest"] == tiny.largest().digest


def _with_halves(evaluation: Evaluation) -> Evaluation:
    return replace(evaluation, correct_by_half=(evaluation.correct // 2, evaluation.correct - evaluation.correct // 2))


def test_counts_of_two_halves_are_stored_and_files_without_them_are_continued(tiny: SearchSpace, run: Path) -> None:
    evaluator = Evaluator(tiny)
    collect_evaluations(run, evaluator, space=tiny, count=3)
    found = collect_evaluations(run, lambda config: _with_halves(evaluator(config)), space=tiny, count=5)
    assert [one.correct_by_half is None for one in found] == [True] * 3 + [False] * 2
    assert found[0].accuracy_by_half is None
    first, second = found[4].correct_by_half or (0, 0)
    assert first + second == found[4].correct
    assert found[4].accuracy_by_half == (first / 500, second / 500)
    assert read_evaluations(run, space=tiny) == found
    assert Evaluation(tiny.smallest(), 3, 5, 0.0, (3, 0)).accuracy_by_half == (1, 0)  # 3 and 2 images


@pytest.mark.parametrize("halves", ["[1, 2]", "[501, 0]", "[1]", "7"])
def test_damaged_counts_of_halves_are_named(tiny: SearchSpace, run: Path, halves: str) -> None:
    evaluator = Evaluator(tiny)
    collect_evaluations(run, lambda config: _with_halves(evaluator(config)), space=tiny, count=2)
    text = (run / FILE).read_text()
    (run / FILE).write_text(re.sub(r'("correct_by_half": )\[[^]]*\]', rf"\g<1>{halves}", text, count=1))
    with pytest.raises(CheckpointError, match=r"line 2 of .* is damaged"):
        read_evaluations(run, space=tiny)


def test_progress_counts_up_and_starts_from_what_is_known(tiny: SearchSpace, run: Path) -> None:
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    collect_evaluations(run, Evaluator(tiny), space=tiny, count=3, progress=note)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    seen.clear()
    collect_evaluations(run, Evaluator(tiny), space=tiny, count=4, progress=note)
    assert seen == [(3, 4), (4, 4)]


@pytest.mark.parametrize("changed", ["weights", "images"])
def test_evaluations_of_other_weights_or_images_are_refused(tiny: SearchSpace, run: Path, changed: str) -> None:
    collect_evaluations(run, Evaluator(tiny), space=tiny, count=2)
    before = (run / FILE).read_bytes()
    write_manifest(run, **{changed: "cc"})
    for action in (
        lambda: collect_evaluations(run, Evaluator(tiny), space=tiny, count=2),
        lambda: read_evaluations(run, space=tiny),
    ):
        with pytest.raises(CheckpointError, match=f"measured with another {changed}_sha256; move the file away"):
            action()
    assert (run / FILE).read_bytes() == before


def _cut(line: bytes) -> bytes:
    return line[:40]


def _swap_digest(line: bytes) -> bytes:
    return line.replace(b'"digest": "', b'"digest": "0')


def _more_than_all(line: bytes) -> bytes:
    return line.replace(b'"total": 1000', b'"total": 1')


def _no_object(line: bytes) -> bytes:
    return b"[1]"


def _nested(line: bytes) -> bytes:
    return b"[" * 100_000


def _half_an_image(line: bytes) -> bytes:
    return re.sub(rb'"correct": (\d+)', rb'"correct": \1.5', line)


def _another_total(line: bytes) -> bytes:
    return line.replace(b'"total": 1000', b'"total": 1001')


@pytest.mark.parametrize(
    "damage", [_cut, _swap_digest, _more_than_all, _no_object, _nested, _half_an_image, _another_total]
)
def test_a_damaged_line_is_named(tiny: SearchSpace, run: Path, damage: Callable[[bytes], bytes]) -> None:
    collect_evaluations(run, Evaluator(tiny), space=tiny, count=4)
    lines = (run / FILE).read_bytes().splitlines()
    lines[2] = damage(lines[2])
    (run / FILE).write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(CheckpointError, match=r"line 3 of .* is damaged .*; delete that line") as caught:
        read_evaluations(run, space=tiny)
    assert "\n" not in str(caught.value)


def test_a_second_process_is_refused(tiny: SearchSpace, run: Path) -> None:
    with (run / FILE).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunBusyError, match="another process is measuring"):
            collect_evaluations(run, Evaluator(tiny), space=tiny, count=2)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tiny: SearchSpace, run: Path) -> None:
    (run / FILE).mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        collect_evaluations(run, Evaluator(tiny), space=tiny, count=2)


def test_an_unfinished_run_is_refused(tiny: SearchSpace, run: Path) -> None:
    (run / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="names no weights or images; finish the training first"):
        collect_evaluations(run, Evaluator(tiny), space=tiny, count=2)


@pytest.mark.parametrize("count", [0, 1, 3529])
def test_a_count_outside_of_the_space_is_refused(toy: SearchSpace, run: Path, count: int) -> None:
    with pytest.raises(ConfigError, match=f"count is {count}; allowed for 'toy_for_search': 2 to 3528"):
        collect_evaluations(run, Evaluator(toy), space=toy, count=count)


def test_the_answer_for_another_subnet_is_refused(tiny: SearchSpace, run: Path) -> None:
    with pytest.raises(ConfigError, match="expected that subnet's own counts"):
        collect_evaluations(run, lambda config: Evaluation(tiny.smallest(), 1, 2), space=tiny, count=2)


def test_no_file_means_no_evaluations(tiny: SearchSpace, run: Path) -> None:
    assert read_evaluations(run, space=tiny) == []
