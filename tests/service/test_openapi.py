from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

PROBLEM = {"$ref": "#/components/schemas/Problem"}


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/api/v1/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_endpoint_of_the_interface_is_described(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    described = {name.replace("/api/v1", "") for name, _ in operations(document)}
    assert described >= {
        *("GET /supernets", "POST /supernets", "GET /supernets/{supernet}", "DELETE /supernets/{supernet}"),
        *("GET /supernets/{supernet}/space", "GET /devices", "POST /devices", "GET /devices/{device}"),
        *("GET /devices/{device}/latency-tables", "POST /devices/{device}/latency-tables"),
        *("GET /latency-tables/{table}", "GET /latency-tables/{table}/content", "DELETE /latency-tables/{table}"),
        *("POST /latency-tables/{table}/estimate", "POST /subnet-requests", "GET /subnet-requests/{request}"),
        *("GET /subnets", "GET /subnets/{subnet}", "GET /subnets/{subnet}/download", "GET /pareto-fronts"),
        *("GET /pruning-runs", "POST /pruning-runs", "GET /pruning-runs/{run}", "POST /weights"),
        *("GET /jobs", "GET /jobs/{job}", "GET /jobs/{job}/events", "POST /jobs/{job}/cancel"),
        *("GET /healthz", "GET /readyz", "GET /version"),
    }


def test_every_refusal_is_a_problem_document_with_an_example(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        refusals = {status: found for status, found in operation["responses"].items() if status[0] in "45"}
        assert {"403", "421", "429"} <= refusals.keys(), name
        for status, found in refusals.items():
            content = found["content"]
            assert content["application/problem+json"]["schema"] == PROBLEM, (name, status)
            assert content["application/problem+json"]["example"]["status"] == int(status)
    assert "HTTPValidationError" not in str(document)


def test_every_body_and_every_answer_has_an_example_or_a_schema_that_says_it(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            schema = content["schema"]
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            assert "example" in content or "examples" in schema or "properties" in schema, (name, kind)
            assert "example" in content or "examples" in schema, (name, kind)


def test_keys_are_described_and_optional(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert schemes["key"]["scheme"] == "bearer"
    for name, operation in operations(document):
        if name.split("/api/v1")[-1] != name:
            assert operation["security"] == [{}, {"key": []}, {"password": []}], name
            assert "401" in operation["responses"], name
            assert "Scope of the key: `" in operation["description"], name


def test_shared_headers_are_described(document: dict[str, Any]) -> None:
    def headers(name: str) -> set[str]:
        found = dict(operations(document))[name]["parameters"]
        return {parameter["name"] for parameter in found if parameter["in"] == "header"}

    for path in ("subnet-requests", "pruning-runs"):
        assert {"Idempotency-Key", "Prefer"} <= headers(f"POST /api/v1/{path}")
    assert {"Idempotency-Key"} <= headers("POST /api/v1/devices")
    download = headers("GET /api/v1/subnets/{subnet}/download")
    assert {"If-None-Match", "Range", "If-Range"} <= download


def test_a_wrong_method_names_all_that_are_right(url: str) -> None:
    for path, allowed in (
        ("/devices", "GET, POST"),
        (f"/latency-tables/{'0' * 64}", "DELETE, GET"),
        ("/jobs", "GET"),
        ("/devices/x/latency-tables", "GET, POST"),
    ):
        answer = httpx.request("PATCH", f"{url}/api/v1{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), path
        assert f"PATCH is not allowed here; allowed: {allowed}" in answer.json()["detail"]
