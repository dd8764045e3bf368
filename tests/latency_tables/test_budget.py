from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables import Budget, Limit
from supernet.errors import ConfigError

devices = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
maxima = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
limits = st.one_of(
    st.builds(Limit, st.sampled_from(["macs", "params", "size_bytes"]), st.none(), maxima),
    st.builds(Limit, st.just("latency_ms"), devices, maxima),
)
budgets = st.lists(limits, min_size=1, max_size=6, unique_by=lambda limit: limit.name).map(lambda x: Budget(tuple(x)))


@given(budgets)
def test_text_and_json_give_the_same_budget_back(budget: Budget) -> None:
    assert Budget.parse(str(budget)) == budget
    assert Budget.from_dict(budget.to_dict()) == budget
    assert Budget.from_dict(json.loads(json.dumps(budget.to_dict()))) == budget


@given(budgets, st.randoms())
def test_order_does_not_matter(budget: Budget, random: object) -> None:
    shuffled = list(budget.limits)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Budget(tuple(shuffled)) == budget
    assert str(Budget(tuple(shuffled))) == str(budget)


@given(st.text(max_size=60))
def test_any_text_is_a_budget_or_a_config_error_of_one_line(text: str) -> None:
    message = ""
    try:
        Budget.parse(text)
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("macs<=3M", 3e6),
        ("macs<=2.3M", 2_300_000),
        ("macs <= 300", 300),
        ("  params<=0.4G ", 4e8),
        ("params<=12K", 12_000),
        ("size_bytes<=1.5MB", 1_500_000),
        ("size_bytes<=64kB", 64_000),
        ("size_bytes<=2KiB", 2048),
        ("size_bytes<=1MiB", 2**20),
        ("size_bytes<=100B", 100),
        ("latency_ms@this-cpu<=2", 2),
        ("latency_ms@this-cpu<=2ms", 2),
        ("latency_ms@this-cpu<=250 us", 0.25),
        ("latency_ms@this-cpu<=1.5s", 1500),
        ("macs<=1e6", 1e6),
    ],
)
def test_units_are_converted_exactly(text: str, value: float) -> None:
    assert Budget.parse(text).limits[0].max == value


def test_several_limits_are_kept_sorted() -> None:
    budget = Budget.parse("params<=1M, latency_ms@b<=2, latency_ms@a<=3, macs<=3M")
    assert str(budget) == "latency_ms@a<=3, latency_ms@b<=2, macs<=3000000, params<=1000000"
    assert budget.names == ("latency_ms@a", "latency_ms@b", "macs", "params")
    assert budget.limits[0] == Limit("latency_ms", "a", 3)
    assert budget.to_dict()[2] == {"metric": "macs", "device": None, "max": 3_000_000}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the budget is empty; write it as macs<=300M"),
        (" ", "the budget is empty"),
        ("macs<=3M,", "nothing between two commas"),
        ("macs", "'macs': not a limit"),
        ("macs<3M", "sign '<'; use <=, limits are inclusive"),
        ("macs>=3M", "sign '>='; only <= is allowed"),
        ("flops<=3M", "unknown metric 'flops'; allowed: latency_ms, macs, params, peak_memory_bytes, size_bytes"),
        ("latency_ms<=3", "latency_ms needs a device; write latency_ms@<device>"),
        ("macs@note10<=3M", "macs is the same on every device; leave @note10 out"),
        ("latency_ms@Note 10<=3", "not a limit"),
        ("latency_ms@Note10<=3", "device name 'Note10'; allowed: 1 to 64 lower-case letters"),
        ("latency_ms@<=3", "device name ''"),
        ("latency_ms@../etc<=3", "device name '../etc'"),
        (f"latency_ms@{'a' * 65}<=3", "device name"),
        ("macs<=3ms", "unit 'ms'; allowed for macs: none, K, M, G"),
        ("macs<=3m", "unit 'm'; allowed for macs"),
        ("size_bytes<=3M", "unit 'M'; allowed for size_bytes: none, B, kB, MB"),
        ("latency_ms@a<=3M", "unit 'M'; allowed for latency_ms: none, ms, us, s"),
        ("macs<=0", "max is 0.0; allowed: a finite number above 0"),
        ("macs<=-3M", "max is -3000000.0; allowed: a finite number above 0"),
        ("macs<=nan", "value 'nan'; allowed: a finite number above 0"),
        ("macs<=inf", "value 'inf'; allowed"),
        ("macs<=1e400", "max is inf; allowed"),
        ("macs<=1e-400", "max is 0.0; allowed"),
        ("macs<=", "value ''; allowed"),
        ("macs<=3 4", "value '3 4'; allowed"),
        ("macs<=3M, macs<=4M", "more than one limit for macs; allowed: one each"),
    ],
)
def test_a_wrong_budget_is_refused_with_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Budget.parse(text)


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "text", [" " * 100_000 + "x", "a" * 100_000, "macs<=" + "1" * 100_000, "macs<=" + " " * 100_000]
)
def test_absurdly_long_text_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Budget.parse(text)
    assert len(str(caught.value)) < 300


def test_the_number_of_limits_is_capped() -> None:
    limits = tuple(Limit("latency_ms", f"d{number}", 1) for number in range(33))
    text = ", ".join(map(str, limits))
    with pytest.raises(ConfigError, match="the budget has more than 32 limits; allowed: 1 to 32"):
        Budget.parse(text)
    with pytest.raises(ConfigError, match="the budget has 33 limits; allowed: 1 to 32"):
        Budget(limits)
    with pytest.raises(ConfigError, match="the budget has 33 limits; allowed: 1 to 32"):
        Budget.from_dict([limit.to_dict() for limit in limits])
    assert len(Budget.parse(", ".join(map(str, limits[:32]))).limits) == 32


def test_all_faults_are_told_together() -> None:
    with pytest.raises(ConfigError, match=r"'macs<0': sign '<'.*'macs<0': max is 0.0.*'flops<=1': unknown metric"):
        Budget.parse("macs<0, flops<=1, params<=1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"metric": "macs", "max": 1},
            "a budget is a list of limits {metric, device, max, relative, quantile}, got dict",
        ),
        ([], "the budget is empty"),
        ([3], "limit 0: expected an object {metric, device, max, relative, quantile}, got int"),
        ([{"metric": "macs"}], "limit 0: field 'max' is missing"),
        ([{"metric": "macs", "max": 1, "min": 0}], "limit 0: unknown field 'min'; allowed: metric, device, max,"),
        ([{"metric": "macs", "max": "1"}], "limit 0: max is '1'; allowed: a finite number above 0"),
        ([{"metric": "macs", "max": True}], "limit 0: max is True"),
        ([{"metric": "macs", "max": math.nan}], "limit 0: max is nan"),
        ([{"metric": "macs", "max": 10**400}], "limit 0: max is 1000"),
        ([{"metric": ["macs"], "max": 1}], "limit 0: unknown metric ['macs']"),
        ([{"metric": "latency_ms", "device": 3, "max": 1}], "limit 0: device name 3; allowed"),
        ([{"metric": "macs", "max": 1}] * 2, "more than one limit for macs"),
    ],
)
def test_wrong_json_is_refused_with_what_is_allowed(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Budget.from_dict(data)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_limit_is_finite_and_above_zero(value: float) -> None:
    with pytest.raises(ConfigError, match="allowed: a finite number above 0"):
        Limit("macs", None, value)


def test_violations_are_relative_excesses_of_exceeded_limits_only() -> None:
    budget = Budget.parse("macs<=4M, params<=100, latency_ms@a<=2")
    costs = {"macs": 5e6, "params": 100, "latency_ms@a": 1.0, "other": math.nan}
    assert budget.violations(costs) == {"macs": 0.25}


@given(budgets)
def test_a_budget_met_exactly_is_not_violated(budget: Budget) -> None:
    assert budget.violations({limit.name: limit.max for limit in budget.limits}) == {}


@pytest.mark.parametrize("costs", [{"macs": 1.0}, {"macs": 1.0, "latency_ms@a": math.nan}])
def test_what_was_not_measured_never_passes(costs: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"no cost is known for latency_ms@a; known: .*; load a latency table"):
        Budget.parse("macs<=4M, latency_ms@a<=2").violations(costs)


@pytest.mark.parametrize(
    ("text", "canonical", "data"),
    [
        ("macs<=60%", "macs<=60%", {"metric": "macs", "device": None, "max": 0.6, "relative": True}),
        ("macs<=33.3 %", "macs<=33.3%", {"metric": "macs", "device": None, "max": 0.333, "relative": True}),
        ("peak_memory_bytes<=1MB", "peak_memory_bytes<=1000000", None),
        (
            "latency_ms@a<=20ms p95",
            "latency_ms@a<=20 p95",
            {"metric": "latency_ms", "device": "a", "max": 20, "quantile": 0.95},
        ),
        (
            "latency_ms@a <= 50 % P99.9",
            "latency_ms@a<=50% p99.9",
            {"metric": "latency_ms", "device": "a", "max": 0.5, "relative": True, "quantile": 0.999},
        ),
    ],
)
def test_shares_and_percentiles_survive_text_and_json(
    text: str, canonical: str, data: dict[str, object] | None
) -> None:
    budget = Budget.parse(text)
    assert str(budget) == canonical
    assert Budget.parse(canonical) == budget == Budget.from_dict(budget.to_dict())
    if data is not None:
        assert budget.to_dict() == [data]


def test_a_percentile_is_another_cost_than_the_typical_latency() -> None:
    budget = Budget.parse("latency_ms@a<=20, latency_ms@a<=30 p95")
    assert budget.names == ("latency_ms@a", "latency_ms@a:p95")
    assert budget.violations({"latency_ms@a": 21, "latency_ms@a:p95": 29}) == {"latency_ms@a": pytest.approx(0.05)}


def test_shares_are_of_the_largest_subnets_cost() -> None:
    budget = Budget.parse("macs<=60%, params<=7").absolute({"macs": 200.0}.__getitem__)
    assert budget == Budget.parse("macs<=120, params<=7")


def test_a_relative_budget_judges_no_costs() -> None:
    with pytest.raises(ConfigError, match="macs<=60%: shares of the largest subnet's cost"):
        Budget.parse("macs<=60%").violations({"macs": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs<=3M p95", "macs is the same in every run; leave the percentile out"),
        ("latency_ms@a<=3 p40", "percentile p40; allowed: p50 to p99.9"),
        ("latency_ms@a<=3 q95", "value '3 q95'"),
        ("macs<=0%", "max is 0.0; allowed: a finite number above 0"),
        ("macs<=%", "value '%'"),
    ],
)
def test_a_wrong_share_or_percentile_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Budget.parse(text)


def test_wrong_types_of_the_new_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match="relative is 1; allowed: true, false"):
        Budget.from_dict([{"metric": "macs", "max": 1, "relative": 1}])
    with pytest.raises(ConfigError, match=r"percentile '95'; allowed: p50 to p99\.9"):
        Budget.from_dict([{"metric": "latency_ms", "device": "a", "max": 1, "quantile": "95"}])
