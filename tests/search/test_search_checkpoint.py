"""Interrupted and resumed equals uninterrupted, for all three searches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_truth import Oracle, formula_table

from latency_tables import Budget, Limit
from search import NSGA2, AccuracyPredictor, EvolutionarySearch, FrontSearch, ParetoFront, checkpoint
from search.predictors import DenseStack
from supernet.errors import CheckpointError, StorageError
from supernet.spaces import SearchSpace

SEARCHES = ["evolution", "cells", "nsga2"]
GENERATIONS = 30
BUDGET = Budget.parse("macs<=3M")


class InterruptedSearchError(Exception):
    pass


def runner(name: str, space: SearchSpace, predictor: Any = None, **options: Any) -> Callable[..., Any]:
    """The `run` of a small search, with the budget if it takes one."""
    options = {"population": 60, "generations": GENERATIONS, "seed": 2, **options}
    tables = options.pop("tables", {"phone": formula_table(space)})
    budget = options.pop("budget", BUDGET)
    predictor = predictor or Oracle(space)
    if name == "evolution":
        search = EvolutionarySearch(space, predictor, tables, **options)
        return lambda *args, **kwargs: search.run(budget, *args, **kwargs)
    metrics = options.pop("metrics", ["macs", "latency_ms@phone"])
    if name == "cells":
        return FrontSearch(space, predictor, tables, metrics=metrics, kept=(200, 50), **options).run
    return NSGA2(space, predictor, tables, metrics=metrics, **options).run


def essence(found: Any) -> Any:
    """What can be compared."""
    if isinstance(found, ParetoFront):
        costs = {name: column.tolist() for name, column in found.costs.items()}
        return found.genotypes.tolist(), found.accuracies.tolist(), costs, found.details
    return found


def interrupted(run: Callable[..., Any], path: Path, generation: int) -> None:
    def progress(done: int, total: int) -> None:
        assert total == GENERATIONS
        if done == generation:
            raise InterruptedSearchError

    with pytest.raises(InterruptedSearchError):
        run(progress, checkpoint=path)


@pytest.fixture
def every_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)


def linear_predictor(space: SearchSpace, seed: int = 0) -> AccuracyPredictor:
    weight = np.random.default_rng(seed).uniform(0, 0.02, size=(77, 1)).astype(np.float32)
    return AccuracyPredictor(space, "ridge", (DenseStack((weight,), (np.zeros(1, np.float32),)),))


@pytest.mark.usefixtures("every_generation")
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_is_interrupted_again_and_again_gives_the_uninterrupted_result(
    name: str, tiny: SearchSpace, tmp_path: Path
) -> None:
    path = tmp_path / "search.ckpt"
    whole = Oracle(tiny)
    expected = runner(name, tiny, whole)()
    parts = Oracle(tiny)
    for generation in (1, 2, 7, 19, GENERATIONS):
        interrupted(runner(name, tiny, parts), path, generation)
        assert path.exists()
    calls: list[int] = []
    found = runner(name, tiny, parts)(lambda done, total: calls.append(done), checkpoint=path)
    assert calls == []  # the last generation was done
    assert essence(found) == essence(expected)
    assert parts.asked == whole.asked  # in the same order, none of them twice
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SEARCHES)
def test_little_is_saved_in_a_short_search_and_the_result_is_the_same(
    name: str, tiny: SearchSpace, tmp_path: Path
) -> None:
    path = tmp_path / "search.ckpt"
    interrupted(runner(name, tiny), path, 5)
    assert list(tmp_path.iterdir()) == []
    assert essence(runner(name, tiny)(checkpoint=path)) == essence(runner(name, tiny)())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("every_generation")
def test_generations_without_a_new_subnet_are_counted_across_an_interruption(toy: SearchSpace, tmp_path: Path) -> None:
    search = EvolutionarySearch(toy, Oracle(toy), generations=GENERATIONS)
    budget = Budget((Limit("macs", None, search.costs.minimum("macs")[0]),))  # one subnet: nothing to find
    interrupted(lambda *args, **kwargs: search.run(budget, *args, **kwargs), tmp_path / "search.ckpt", 7)
    resumed: list[int] = []
    found = search.run(budget, lambda done, _: resumed.append(done), checkpoint=tmp_path / "search.ckpt")
    assert found == search.run(budget)
    assert resumed == [8, 9, 10]


KILLED = """
import sys
from pathlib import Path
from search_truth import Oracle, formula_table
from search import FrontSearch, checkpoint
from supernet.spaces import get_space

checkpoint.SECONDS = 0.0
space = get_space("mobilenet_v3_tiny")
search = FrontSearch(space, Oracle(space), metrics=["macs"], population=60, generations=300, kept=(200, 50))
search.run(lambda done, total: print(done, flush=True), checkpoint=Path(sys.argv[1]))
"""


def test_a_killed_search_goes_on_from_its_file(tiny: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())])}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 40:
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    options = {"metrics": ["macs"], "population": 60, "generations": 300, "kept": (200, 50)}
    calls: list[int] = []
    found = FrontSearch(tiny, Oracle(tiny), **options).run(lambda done, _: calls.append(done), checkpoint=path)
    assert calls[0] > 40
    assert essence(found) == essence(FrontSearch(tiny, Oracle(tiny), **options).run())
    assert not path.exists()


@pytest.mark.usefixtures("every_generation")
def test_a_checkpoint_of_another_search_is_refused_and_what_differs_is_named(tiny: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    predictor = linear_predictor(tiny)
    interrupted(runner("evolution", tiny, predictor), path, 3)
    before = path.read_bytes()
    table = formula_table(tiny)
    slower = replace(table, rows={key: replace(row, median_ms=2 * row.median_ms) for key, row in table.rows.items()})
    wide = tiny.with_num_classes(7)
    for run, named in (
        (runner("evolution", tiny, predictor, seed=3), r"seed is 2 there and 3 here; search with the same arguments"),
        (runner("evolution", tiny, predictor, population=61, generations=5), r"generations is 30 .* population is 60"),
        (runner("evolution", tiny, predictor, parent_shares=(9.0, 0.3)), r"parent_shares is \[10.0, 0.3\] there"),
        (runner("evolution", tiny, predictor, mutation_share=0.4), r"mutation_share is 0.5 there and 0.4 here"),
        (runner("evolution", tiny, predictor, budget=Budget.parse("macs<=2M")), "budget is 'macs<=3000000' there"),
        (runner("evolution", tiny, linear_predictor(tiny, 1)), r"predictor is [0-9a-f]{12} there and [0-9a-f]{12} "),
        (runner("evolution", tiny), "predictor is [0-9a-f]{12} there and absent here"),
        (runner("evolution", tiny, predictor, tables={"phone": slower}), r"the table of 'phone' is [0-9a-f]{12} there"),
        (runner("evolution", tiny, predictor, tables={}), "the table of 'phone' is [0-9a-f]{12} there and absent here"),
        (runner("evolution", wide, replace(predictor, space=wide), tables={}), "num_classes is 10 there and 7 here"),
        (runner("cells", tiny, predictor), "search is 'EvolutionarySearch' there and 'FrontSearch' here"),
    ):
        with pytest.raises(CheckpointError, match=f"is the checkpoint of another search: .*{named}"):
            run(checkpoint=path)
    assert path.read_bytes() == before
    interrupted(runner("nsga2", tiny), tmp_path / "front.ckpt", 3)
    with pytest.raises(CheckpointError, match=r"metrics is \['macs', 'latency_ms@phone'\] there and \['macs'\] here"):
        runner("nsga2", tiny, metrics=["macs"])(checkpoint=tmp_path / "front.ckpt")


@pytest.mark.usefixtures("every_generation")
def test_a_file_that_is_cut_altered_or_something_else_is_refused(tiny: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "search.ckpt"
    interrupted(runner("cells", tiny), path, 3)
    whole = path.read_bytes()
    linear_predictor(tiny).save(tmp_path / "predictor")
    for content, reason in (
        (whole[:-1], ""),
        (whole[:100], ""),
        (b"", ""),
        (b"no checkpoint", ""),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "does not have the digest"),
        (whole.replace(b'\\"generation\\":', b'\\"Generation\\":'), "does not have the digest"),
        ((tmp_path / "predictor" / "predictor.safetensors").read_bytes(), "its format is None, not 'onceforall.search"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"is no search's checkpoint, or is damaged \(.*{reason}.*; choose"):
            runner("cells", tiny)(checkpoint=path)
        assert path.read_bytes() == content
    path.write_bytes(whole)
    assert essence(runner("cells", tiny)(checkpoint=path)) == essence(runner("cells", tiny)())


def test_what_a_kill_during_a_save_left_is_removed(tiny: SearchSpace, tmp_path: Path) -> None:
    for name in (".search[1].ckpt.x1_y.tmp", ".other.ckpt.x1_y.tmp", ".search1.ckpt.x1_y.tmp"):
        (tmp_path / name).write_bytes(b"half")
    runner("evolution", tiny)(checkpoint=tmp_path / "search[1].ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.ckpt.x1_y.tmp", ".search1.ckpt.x1_y.tmp"]


def test_a_place_that_cannot_be_written_is_refused_before_the_search(tiny: SearchSpace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    oracle = Oracle(tiny)
    with pytest.raises(StorageError, match="cannot write"):
        runner("nsga2", tiny, oracle)(checkpoint=tmp_path / "file" / "search.ckpt")
    assert oracle.asked == []


def test_a_predictor_s_digest_tells_what_it_predicts_and_not_how_it_was_made(tiny: SearchSpace) -> None:
    one = linear_predictor(tiny)
    assert one.digest == replace(linear_predictor(tiny), kind="other", details={"seconds": 3}).digest
    others = [linear_predictor(tiny, 1), replace(one, resolutions=(20, 24)), replace(one, stacks=one.stacks * 2)]
    assert len({one.digest, *(other.digest for other in others)}) == 4
