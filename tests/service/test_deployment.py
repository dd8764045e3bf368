"""Dockerfile and docker-compose.yml: held against all that can be known of them where no container engine runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from service.cli import app
from service.settings import Settings

ROOT = Path(__file__).parents[2]
AWS = {"AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ALLOW_HTTP", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
"""The variables of obstore's S3 client; `servers.S3Server.environment` has the same."""
OURS = ("api-1", "api-2", "worker-1", "worker-2")


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1].strip()) for line in text.splitlines() if line.strip()]


def parse(arguments: list[str]) -> str:
    """Parse a command line as `onceforall` would, and return the command; refuses unknown commands and options."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert arguments[0] in command.commands, f"no command {arguments[0]!r}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    name: str = command.make_context(command.name, list(arguments)).info_name
    return name


def commands() -> Iterator[list[str]]:
    for name in OURS:
        service = compose()["services"][name]
        yield service["command"]
        test = service["healthcheck"]["test"]
        assert test[0] == "CMD"
        yield test[1:]
    for kind, value in instructions():
        if kind == "CMD":
            yield json.loads(value)
        elif kind == "HEALTHCHECK":
            yield json.loads(value.partition("CMD")[2])


def test_docker_compose_yml_keeps_to_the_compose_specification() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(compose())
    broken = compose()
    broken["services"]["api-1"]["heathcheck"] = {}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


def test_there_are_two_api_processes_two_workers_a_database_and_a_store_and_all_are_checked() -> None:
    services = compose()["services"]
    assert set(services) == {*OURS, "proxy", "postgres", "s3"}
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert services[other]["healthcheck"]
    assert {services[name]["command"][1] for name in OURS} == {"serve", "worker"}
    assert [services[name]["command"] for name in OURS[:2]] == [["onceforall", "serve", "--workers", "0"]] * 2
    volumes = [volume.partition(":")[0] for service in services.values() for volume in service["volumes"]]
    named = [volume for volume in volumes if not volume.startswith(".")]
    assert sorted(named) == sorted(compose()["volumes"])  # each its own
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8000:8000"]


def test_every_variable_is_a_setting_or_one_of_the_s3_clients() -> None:
    settings = {f"ONCEFORALL_{name.upper()}" for name in Settings.model_fields}
    stated: dict[str, str] = {}
    for name in OURS:
        stated |= compose()["services"][name]["environment"]
    for kind, value in instructions():
        if kind == "ENV":
            stated |= dict(part.split("=", 1) for part in shlex.split(value))
    assert {name for name in stated if name.startswith("ONCEFORALL_")} <= settings
    assert {name for name in stated if name.startswith("AWS_")} == AWS
    assert {name for name in stated if not name.startswith(("ONCEFORALL_", "AWS_"))} <= {
        "PATH", "PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK",
    }  # fmt: skip


def test_the_environment_of_every_process_is_accepted_as_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        for variable, value in compose()["services"][name]["environment"].items():
            plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", re.sub(r"\$\{\w+:\?[^}]*\}", "pass", value))
            assert "$" not in plain
            monkeypatch.setenv(variable, plain)
        settings = Settings()
        assert settings.resolved_database_url == "postgresql+psycopg://onceforall:pass@postgres/onceforall"
        assert settings.resolved_artifact_url == "s3://onceforall/artifacts"
        assert not settings.embedded
        assert settings.log_format == "json"


def test_a_stranger_s_page_is_not_served_by_the_api_processes_as_they_are_shipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in OURS[:2]:
        for variable, value in compose()["services"][name]["environment"].items():
            monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
        settings = Settings()
        assert not settings.keys_required
        assert settings.hosts == {"localhost", "127.0.0.1", "::1", "0.0.0.0"}


def test_every_command_is_one_of_the_command_lines() -> None:
    seen = []
    for command in commands():
        if command[0] == "python":
            assert command[1] == "-c"
            compile(command[2], "healthcheck", "exec")
            assert re.search(r"http://127\.0\.0\.1:8000/healthz", command[2])
            continue
        assert command[0] == "onceforall"
        seen.append(parse(command[1:]))
    assert set(seen) == {"serve", "worker"}
    with pytest.raises(AssertionError, match="no command 'sreve'"):
        parse(["sreve"])
    with pytest.raises(Exception, match="No such option"):
        parse(["serve", "--wrokers", "0"])


def test_secrets_come_from_a_file_that_is_not_committed() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text))
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    secret = {name for name in asked if re.search("PASSWORD|KEY", name)}
    assert {name: example[name] for name in secret} == dict.fromkeys(secret, "")
    assert set(re.findall(r"\$\{(\w+):\?", text)) == secret  # without a value, nothing starts
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|DATABASE_URL", name):
                assert "${" in value, name
    assert "/.env" in (ROOT / ".gitignore").read_text().split()
    assert ".env" in (ROOT / ".dockerignore").read_text().split()


def test_the_image_runs_as_nobody_special_with_torch_for_cpus_as_pyproject_bounds_it() -> None:
    steps = instructions()
    final = steps[max(number for number, (kind, _) in enumerate(steps) if kind == "FROM") :]
    assert re.fullmatch(r"python:3\.\d+-slim", final[0][1])
    user = [value for kind, value in final if kind == "USER"]
    assert user
    assert int(user[-1]) > 0
    assert [kind for kind, _ in final].count("HEALTHCHECK") == 1
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    install = next(value for kind, value in steps if kind == "RUN" and "--index-url" in value)
    assert "https://download.pytorch.org/whl/cpu" in install
    for package in ("torch", "torchvision"):
        (bound,) = [each for each in project["dependencies"] if re.match(rf"{package}\b", each)]
        assert f'"{bound}"' in install
    for kind, value in steps:
        if kind == "COPY" and not value.startswith("--from"):
            assert all((ROOT / source).exists() for source in value.split()[:-1]), value
    packages = {value.split()[0] for kind, value in steps if kind == "COPY"}
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in included} <= packages
    for volume in (volume for service in compose()["services"].values() for volume in service["volumes"]):
        if volume.startswith("./"):
            assert (ROOT / volume.split(":")[0]).exists()


def test_the_proxy_knows_the_api_processes_and_its_file_is_well_formed(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    assert re.findall(r"server ([\w-]+):8000 ", text) == ["api-1", "api-2"]
    assert text.count("{") == text.count("}")
    assert "health_check" not in text  # so nothing may claim that readiness is asked for
    assert "Whether one is\n# ready (/readyz) this proxy does not ask" in text
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if nginx is not None:
        here = re.sub(r"server api-\d:", "server 127.0.0.1:", text).replace("/tmp/nginx.pid", str(tmp_path / "pid"))
        (tmp_path / "nginx.conf").write_text(here)
        checked = subprocess.run(
            [
                nginx,
                "-t",
                "-c",
                str(tmp_path / "nginx.conf"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr
