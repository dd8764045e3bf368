"""Can others generate a client from the OpenAPI document, and does it work?

Command: python -m benchmarks.generated_client   (about 2 minutes; installs openapi-python-client from PyPI)
Result:  benchmarks/results/generated_client.json

`openapi-python-client` gets an environment of its own in a temporary folder, because it pins an older typer than ours.
It generates a package from the document of a running service. A program that knows nothing but that package then
describes a device, asks for a subnet, waits for it, reads its figures, and is refused once. The generator's warnings
are failures, but for bodies in YAML and CSV, which it knows nothing of (latency tables go as JSON then).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import httpx

from benchmarks.service_process import machine, make_run, make_table, service
from service.client import Client
from supernet.files import write_json

RESULT = Path(__file__).parent / "results" / "generated_client.json"
PROGRAM = """
import json, sys
from generated import Client
from generated.api.devices import devices_create as create_device
from generated.api.subnet_requests import subnet_requests_ask as ask
from generated.models import Constraint, DeviceIn, SubnetRequestIn
from generated.models import Problem, SubnetRequestOut

client = Client(base_url=sys.argv[1], timeout=120)
device = create_device.sync(client=client, body=DeviceIn(name="generated"))
limit = Constraint.from_dict({"metric": "macs", "max": 3e6})
wish = SubnetRequestIn(supernet="noise", constraints=[limit])
answer = ask.sync_detailed(client=client, body=wish, prefer="wait=30")
refused = ask.sync_detailed(client=client, body=SubnetRequestIn(supernet="nobody", constraints=[limit]))
assert isinstance(answer.parsed, SubnetRequestOut), answer
assert isinstance(refused.parsed, Problem), refused
print(json.dumps({
    "device": device.name,
    "status": int(answer.status_code),
    "macs": answer.parsed.subnet.measured.to_dict()["macs"],
    "refusal": refused.parsed.to_dict()["faults"],
}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = environment(folder / "venv")
        with service(folder / "data") as running:
            with Client(running.url) as client:
                client.register_run(make_run(folder / "run"), "noise")
                client.create_device("bench")
                make_table().save(folder / "bench.json")
                client.upload_table("bench", folder / "bench.json")
            (folder / "openapi.json").write_bytes(httpx.get(f"{running.url}/api/v1/openapi.json").content)
            warnings = generate(python, folder)
            done = subprocess.run(
                [python, "-c", PROGRAM, running.url], cwd=folder / "out", capture_output=True, text=True, check=False
            )
    answers: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-2000:]}
    well = not warnings and answers.get("status") == 200
    result = {"machine": machine(), "well": well, "warnings": warnings, "answers": answers}
    write_json(RESULT, result)
    print(json.dumps(result, indent=2))
    sys.exit(not well)


def environment(folder: Path) -> str:
    """A Python with the generator; its path."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "openapi-python-client>=0.29", "ruff"], check=True)
    return python


def generate(python: str, folder: Path) -> list[str]:
    """Make the package `generated`; the generator's warnings."""
    configuration = folder / "generator.yaml"
    configuration.write_text("package_name_override: generated\nproject_name_override: out\npost_hooks: []\n")
    command = [python, "-m", "openapi_python_client", "generate", "--path", str(folder / "openapi.json")]
    more = ["--output-path", str(folder / "out"), "--config", str(configuration)]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    known = ("Unsupported content type application/yaml", "Unsupported content type text/csv")
    warned = [number for number, line in enumerate(lines) if line.startswith("WARNING")]
    reasons = [next((line for line in lines[number + 1 :] if line.strip()), "") for number in warned]
    return [reason for reason in reasons if reason not in known] + (lines[-5:] if done.returncode else [])


if __name__ == "__main__":
    main()
