"""deploy/grafana: dashboards as their descriptions say, of Grafana's types, over metrics that exist."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.promql import GRAFANA, Query, panels, queries, unknown

BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def test_the_dashboards_are_made_from_the_boards():
    done = subprocess.run([sys.executable, GRAFANA / "make.py", "--check"], check=False, timeout=60)
    assert done.returncode == 0, "run: python deploy/grafana/make.py"
    assert [path.stem for path in BOARDS] == ["edges", "node", "vm"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_grafanas_own_types_hold_a_whole_dashboard(path):
    """Read into the types of its schema and written again, nothing is lost."""
    text = path.read_text("utf-8")
    again = json.dumps(Dashboard.from_json(json.loads(text)), cls=JSONEncoder, sort_keys=True, indent=2) + "\n"
    assert again == text


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
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
