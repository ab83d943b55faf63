"""deploy/grafana: dashboards as their descriptions say, of Grafana's types, over metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk import builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.promlabels import labels_of, named_by
from tests.support.promql import GRAFANA, Query, panels, queries, unknown

BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
EACH_BOARD = pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
"""Grafana's own list; any other word is shown as it is behind the value."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def test_the_dashboards_are_made_from_the_boards():
    done = subprocess.run([sys.executable, GRAFANA / "make.py", "--check"], check=False, timeout=60)
    assert done.returncode == 0, "run: python deploy/grafana/make.py"
    assert [path.stem for path in BOARDS] == ["edges", "node", "vm"]


@EACH_BOARD
def test_grafanas_own_types_hold_a_whole_dashboard(path):
    """Read into the types of its schema and written again, nothing is lost."""
    text = path.read_text("utf-8")
    again = json.dumps(Dashboard.from_json(json.loads(text)), cls=JSONEncoder, sort_keys=True, indent=2) + "\n"
    assert again == text


@EACH_BOARD
def test_panels_are_numbered_fit_the_grid_and_do_not_overlap(path):
    content = json.loads(path.read_text("utf-8"))
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"]) > 10
    taken = set()
    for panel in content["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@EACH_BOARD
def test_what_is_chosen_above_a_board_is_what_its_panels_ask_for(path):
    """``$name`` in the place of a value; those with two underscores are Grafana's own."""
    text = path.read_text("utf-8")
    board = json.loads(text)
    declared = [variable["name"] for variable in board["templating"]["list"]]
    used = set(re.findall(r"\$\{?(?!__)(\w+)", text))
    assert sorted(used) == sorted(declared)
    queried = [variable for variable in board["templating"]["list"] if variable["type"] == "query"]
    shown = [panel for panel in board["panels"] if panel["type"] != "row"]
    asked = [target for panel in shown for target in panel["targets"]]
    assert all(one["datasource"] == SOURCE for one in (*queried, *shown, *asked))
    assert all(len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) for panel in shown)


def test_a_board_shows_the_last_hour_and_follows_it():
    boards = [json.loads(path.read_text("utf-8")) for path in BOARDS]
    assert {(board["refresh"], board["time"]["from"], board["time"]["to"]) for board in boards} == {
        ("15s", "now-1h", "now")
    }
    assert len({board["uid"] for board in boards}) == len(boards)
    assert all(len(board["uid"]) <= 40 for board in boards), "longer ones are refused"


def test_panels_are_of_kinds_and_units_that_grafana_has():
    """Of this version: graph, singlestat and the old table are gone."""
    kinds = {path.stem.replace("-", "") for place in builders.__path__ for path in Path(place).glob("*.py")}
    assert "graph" not in kinds
    assert "singlestat" not in kinds
    assert {panel["type"].replace("-", "") for _, panel in panels()} <= kinds
    assert {"short", "Bps", "s"} < {query.unit for query in queries()} <= UNITS


@pytest.mark.parametrize("query", queries(), ids=str)
def test_a_legend_names_labels_that_the_answer_has(query: Query):
    """Others stay empty, and the curves of a panel look alike."""
    assert query.legend
    labels = labels_of(query.expression(rate="1m")) or set()
    assert named_by(query.legend) <= labels


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("1 + 1", None),
        ("time() - up", {"job", "instance", "cluster"}),
        ("up or vector(0)", set()),
        ("sum(mover_loop_lag_seconds_count)", set()),
        ("sum by (stage, vm) (mover:threads)", {"stage"}),
        ("sum without (job) (mover_loop_lag_seconds_bucket)", {"instance", "cluster", "le"}),
        ("histogram_quantile(0.9, sum by (le, job) (mover_loop_lag_seconds_bucket))", {"job"}),
        ("topk(3, sum by (job) (up))", {"job"}),
        ("mover:threads and on (job) up", {"job", "instance", "cluster", "stage", "state"}),
        ("mover:threads / on (job) group_left sum by (job) (up)", {"job", "instance", "cluster", "stage", "state"}),
        ("mover:threads / on (job, stage) mover:threads", {"job", "stage"}),
        ("mover:threads * ignoring (state) mover:threads", {"job", "instance", "cluster", "stage"}),
        ("mover:threads > mover:threads", {"job", "instance", "cluster", "stage", "state"}),
        ("mover:threads > on (job) up", {"job"}),
        ("mover:vm_gone", {"cluster", "vm"}),
        ('label_replace(sum(up), "way", "in", "", "")', {"way"}),
    ],
)
def test_labels_of_an_answer_are_known(expression, labels):
    """What the check of the legends stands on."""
    assert labels_of(expression) == labels


@pytest.mark.parametrize("query", queries(), ids=str)
def test_every_panel_asks_for_what_there_is(query: Query):
    assert unknown(query.expression(rate="1m")) == []


def test_every_metric_that_moves_is_shown():
    """What nobody looks at is named here, with the reason."""
    shown = {name for query in queries() for name, _ in query.selected()}
    elsewhere = {
        "mover_build_info": "told apart by an alert",
        "mover_node_info": "for joins",
        "mover_vm_last_failure_timestamp_seconds": "shown as the alert that it makes",
        "mover_vm_last_success_timestamp_seconds": "shown as mover:vm_last_success_timestamp_seconds",
        "mover_audit_blocks_total": "the bytes of the node by stage hold the same",
        "mover_series_dropped_total": "an alert",
        "mover_stage_seconds_total": "shown as mover:threads",
        "mover_loop_lag_seconds": "shown as its p99",
    }
    instruments = {name for name in Query.instruments() if not name.startswith("process_")}
    assert instruments - shown == set(elsewhere), (
        "put a new metric on a board in deploy/grafana/boards, or name it here"
    )


def test_provisioning_leads_to_the_dashboards():
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text("utf-8"))
    assert [one["type"] for one in source["datasources"]] == ["prometheus"]
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/mover.yml").read_text("utf-8"))["providers"][0]
    assert provider["options"]["path"].endswith("/dashboards")
    assert len(panels()) > 40
