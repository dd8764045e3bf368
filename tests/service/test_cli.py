"""The command line as a user meets it: in processes of its own, on real files."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latency_tables import LatencyTable, Provenance, Row
from latency_tables.counter import counted_macs
from supernet.files import sha256_file
from supernet.spaces import SearchSpace
from supernet.subnet_file import load_subnet
from tests.service.command_line import onceforall, refusal

COMMANDS = (
    "train",
    "evaluate",
    "predictor",
    "profile",
    "tables",
    "search",
    "extract",
    "export",
    "import-ofa",
    "serve",
    "demo",
)


@pytest.fixture(scope="module")
def table(tiny: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete table whose latencies follow the layers' sizes."""
    rows = {s.key: Row(1e-6 * s.in_channels * s.in_size**2 * s.kernel + 0.01, 0.001, 5) for s in tiny.all_layers()}
    provenance = Provenance({"cpu": "made up"}, "torch-eager", {}, "fp32", "channels_last", 1, 1, "2026-01-01", 5, 1)
    path = tmp_path_factory.mktemp("tables") / "paper-cpu.json"
    LatencyTable("paper-cpu", tiny.name, tiny.num_classes, rows, provenance).save(path)
    return path


def test_help_lists_all_commands_and_is_quick() -> None:
    """Processor time, so that a busy machine does not matter; on an idle one it is the time that a user waits."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "service.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert all(f"  {command} " in done.stdout for command in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['onceforall', '--help']\n"
        "import service.cli\n"
        "try: service.cli.main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'sklearn', 'fastapi', 'sqlalchemy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.long
def test_from_training_to_an_evaluated_subnet(tmp_path: Path, table: Path) -> None:
    run, config, out = tmp_path / "run", tmp_path / "subnet.json", tmp_path / "subnet"
    stages = "largest=1,kernel=1,depth1=1,depth2=1,width1=1,width2=1"
    trained = onceforall(
        *("train", "--run", run, "--recipe", "progressive", "--epochs", stages, "--batch-size", 256, "--json")
    )
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["weights_sha256"] == sha256_file(run / "supernet.safetensors")
    fitted = onceforall("predictor", run, "--count", 30, "--json")
    assert fitted.returncode == 0, fitted.stderr
    report = json.loads(fitted.stdout)
    assert set(report["scores"]) == {"mlp", "ridge", "pooled"}
    assert report["standard_error"] > 0
    assert 0 <= report["tau_with_truth"] <= 1
    budget = "macs<=3M, latency_ms@paper-cpu<=0.4"
    found = onceforall("search", run, "--budget", budget, "--table", table, "--out", config, "--json")
    assert found.returncode == 0, found.stderr
    costs = json.loads(found.stdout)["costs"]
    assert costs["macs"] <= 3e6
    assert costs["latency_ms@paper-cpu"] <= 0.4
    extracted = onceforall("extract", run, "--subnet", config, "--out", out, "--json")
    card = json.loads(extracted.stdout)
    assert card["measured"]["macs"] == costs["macs"]
    evaluated = json.loads(onceforall("evaluate", out, "--part", "holdout", "--json").stdout)
    assert evaluated["parts"]["holdout"]["correct"] == card["measured"]["correct"]
    assert evaluated["macs"] == card["measured"]["macs"]
    assert evaluated["params"] == card["measured"]["params"]
    assert "is not an empty folder" in refusal("extract", run, "--subnet", "largest", "--out", out)
    assert "leave out --epochs, or start another run" in refusal("train", "--resume", run, "--epochs", 9)
    again = refusal("train", "--run", run)
    assert "holds a training run already (status: complete)" in again
    resumed = onceforall("train", "--resume", run, "--json")
    assert json.loads(resumed.stdout)["weights_sha256"] == json.loads(trained.stdout)["weights_sha256"]


@pytest.mark.slow
def test_an_interrupted_training_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "train", "--run", str(tmp_path / "run")]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}

    def heed_interrupts() -> (
        None
    ):  # a test command in the background of a shell ignores them, and so would its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, text=True, preexec_fn=heed_interrupts, **pipes) as process:  # type: ignore[call-overload]
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert f"go on with: onceforall train --resume {tmp_path / 'run'}" in process.stderr.read()
    # an interrupt that passes through exec() of a text (numba's import has some) makes CPython end by the signal
    # itself, though it was handled; a shell reports 130 either way
    assert process.returncode in (130, -signal.SIGINT)


def test_tables_show_names_origin_and_rows(table: Path) -> None:
    shown = json.loads(onceforall("tables", "show", table, "--json").stdout)
    assert shown["device"] == "paper-cpu"
    assert shown["missing"] == []
    assert len(shown["rows"]) == 234
    assert "paper-cpu: 234 layers of mobilenet_v3_tiny" in onceforall("tables", "show", table).stdout


def test_an_infeasible_budget_names_the_tightest_limit_and_the_nearest_subnet(tiny_run: Path) -> None:
    text = refusal("search", tiny_run, "--budget", "macs<=0.1M, params<=1M")
    assert "macs" in text
    assert "nearest" in text


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ("macs<=3GB", "macs"),
        ("macs<=nan", "nan"),
        ("macs<=0", "0"),
        ("speed<=3", "speed"),
        ("latency_ms@pixel9<=3", "pixel9"),
        ("latency_ms<=3", "latency_ms"),
    ],
)
def test_bad_budgets_are_refused_by_name(tiny_run: Path, budget: str, text: str) -> None:
    assert text in refusal("search", tiny_run, "--budget", budget)


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    assert "unknown data set 'mnist'; allowed: cifar10, digits, fashion-mnist, folder" in refusal(
        "train", "--data", "mnist", "--run", tmp_path / "a"
    )
    assert "unknown search space 'vgg'; allowed: mobilenet_v3_tiny" in refusal(
        "train", "--space", "vgg", "--run", tmp_path / "b"
    )
    assert "unknown search space 'vgg'" in refusal("profile", "vgg")
    assert "'Pixel 6'" in refusal("profile", "mobilenet_v3_tiny", "--device", "Pixel 6")
    assert "is not a training run" in refusal("predictor", tmp_path)
    assert "unknown part of the data 'dev'; allowed: test, holdout" in refusal("evaluate", tmp_path, "--part", "dev")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--epochs", "largest=ten"), "--epochs: 'largest=ten' is not STAGE=NUMBER"),
        (("--epochs", "biggest=10"), "recipe 'sandwich' has no stage biggest; its stages are sandwich"),
        (("--recipe", "progressive", "--epochs", "3"), "3 epochs for 6 stages"),
        (("--learning-rates", "sandwich=-1"), "learning rate of stage sandwich is -1.0"),
        (("--label-ratio", "-1"), "label_ratio of stage sandwich is -1.0; a number of 0 or more"),
        (("--dropout", "1"), "dropout is 1.0; allowed: 0 up to below 1"),
        (("--batch-size", "5000"), "fewer than one batch of 5000"),
        (("--data", "folder"), "an image folder needs --data-root"),
        (("--epochs", "\u00b2"), "is not STAGE=NUMBER"),
    ],
)
def test_bad_training_options_are_refused_and_leave_no_run(tmp_path: Path, options: tuple[str, ...], text: str) -> None:
    assert text in refusal("train", "--run", tmp_path / "run", *options)
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_table_of_another_space_or_with_missing_rows_is_refused(tiny_run: Path, table: Path, tmp_path: Path) -> None:
    document = json.loads(table.read_text())
    gone = tmp_path / "gone.json"
    gone.write_text(json.dumps(document | {"rows": document["rows"][3:]}))
    text = refusal("search", tiny_run, "--budget", "macs<=3M", "--table", gone)
    assert "3 of 234 rows missing" in text
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document | {"space": "proxyless_w1.3"}))
    assert "proxyless_w1.3" in refusal("search", tiny_run, "--budget", "macs<=3M", "--table", other)


def test_what_cannot_be_written_or_is_too_little_is_refused_before_the_work(tiny_run: Path, tmp_path: Path) -> None:
    assert "names no table format" in refusal("profile", tiny_run, "--out", tmp_path / "table.txt")
    (tmp_path / "file").write_text("")
    assert "cannot write" in refusal("profile", tiny_run, "--out", tmp_path / "file" / "table.json")
    assert "24 measured subnets leave 19 to fit; at least 20 are needed; measure 25 subnets or more" in refusal(
        "predictor", tiny_run, "--count", 24
    )
    for option in ("--seed", "--threads"):
        done = onceforall("predictor", tiny_run, option, -1)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert option in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = refusal("serve", "--data-dir", tmp_path, "--port", port)
    assert f"127.0.0.1:{port}" in text
    assert "--port" in text


def test_the_demo_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert "is not empty; remove it, or choose another folder with --out" in refusal("demo", "--out", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.slow
def test_the_demo_ends_by_itself_with_a_subnet_within_each_budget(tmp_path: Path) -> None:
    """The whole job as `make demo` does it, only shorter."""
    out = tmp_path / "demo"
    done = onceforall("demo", "--out", out, "--epochs", 2, "--count", 30)
    assert done.returncode == 0, done.stderr
    table = LatencyTable.load(out / "this-cpu.json")
    for name in ("tight", "middle", "loose"):
        folder = out / "subnets" / name
        subnet, card = load_subnet(folder), json.loads((folder / "card.json").read_text())
        limits = {(limit["metric"], limit["device"]): limit["max"] for limit in card["budget"]}
        counted = counted_macs(subnet, subnet.config.resolution)
        assert counted == card["measured"]["macs"] <= limits["macs", None]
        assert table.estimate_ms(subnet.space, subnet.config) <= limits["latency_ms", "this-cpu"]
        assert f"{name}: " in done.stdout
    assert f"onceforall serve --data-dir {out / 'service'}" in done.stdout
