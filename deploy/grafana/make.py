"""Writes the dashboards from boards/*.yml, by Grafana's own typed builders.

usage: python deploy/grafana/make.py [--check]    (needs the test requirements; a test runs the check)

A board has rows of panels. Of a panel: kind (lines, stack, figure, word, bars, timeline), size (width of 24 by
height), unit (Grafana's name), queries (legend: expression), colour below the first of its limits, limits (value:
colour from there on), words (value: what is shown, colour), colours (stages), most, empty (shown without data), help.
In expressions CLUSTER, NODE and VM stand for the matchers of what was chosen above the board.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.builders import bargauge, common, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as model

HERE = Path(__file__).parent
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
MATCHERS = {
    "CLUSTER": 'cluster=~"$cluster"',
    "NODE": 'cluster=~"$cluster", instance=~"$instance"',
    "VM": 'cluster=~"$cluster", vm=~"$vm"',
}
VARIABLES = {
    "cluster": ("Cluster", 'label_values(up{job="mover"}, cluster)'),
    "instance": ("Node", 'label_values(up{job="mover", cluster=~"$cluster"}, instance)'),
    "vm": ("VM", 'label_values(mover_vm_last_success_timestamp_seconds{cluster=~"$cluster"}, vm)'),
}
DISKS, CPU, STORE = "blue", "orange", "red"
STAGES = {
    "read": ("read: the disks", DISKS),
    "compute": ("compute: the CPU", CPU),
    "upload": ("upload: the store", STORE),
    "fetch": ("fetch: the store", STORE),
    "open": ("open: the CPU", CPU),
    "write": ("write: the disks", DISKS),
}
"""Stage of mover:bottleneck → its words, and the colour of what would have to be faster."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say whether the files are up to date")
    wanted = parser.parse_args()
    boards = {HERE / "dashboards" / f"{path.stem}.json": path for path in sorted((HERE / "boards").glob("*.yml"))}
    texts = {target: rendered(yaml.safe_load(path.read_text("utf-8"))) for target, path in boards.items()}
    if wanted.check:
        there = {target: target.read_text("utf-8") for target in (HERE / "dashboards").glob("*.json")}
        return 0 if there == texts else 1
    for target, text in texts.items():
        target.write_text(text, "utf-8")
    return 0


def rendered(board: Mapping[str, Any]) -> str:
    """A board as Grafana reads it."""
    made = (
        build.Dashboard(board["title"])
        .uid(board["uid"])
        .description(board["description"])
        .tags(["mover"])
        .editable()
        .refresh("15s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(build.DashboardLink("mover").type(model.DashboardLinkType.DASHBOARDS).tags(["mover"]).keep_time(True))
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name in board["variables"]:
        made.with_variable(variable(name))
    number = itertools.count(1)
    for row in board["rows"]:
        made.with_row(build.Row(row["title"]).id(next(number)))
        for panel in row["panels"]:
            made.with_panel(built(panel).id(next(number)))
    return json.dumps(made.build(), cls=JSONEncoder, sort_keys=True, indent=2) + "\n"


def variable(name: str) -> build.QueryVariable:
    """One choice above the board. A VM or node at a time; clusters together."""
    label, query = VARIABLES[name]
    made = build.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
    return made.include_all(True).all_value(".*") if name == "cluster" else made


def built(panel: Mapping[str, Any]) -> Any:
    """One panel; an unknown key or kind is an error."""
    unknown = panel.keys() - {"title", "kind", "size", "unit", "queries", "colour", "limits", "words", "colours"}
    if unknown - {"most", "empty", "help"}:
        raise ValueError(f"{panel['title']}: {', '.join(sorted(unknown))}")
    made = KINDS[panel.get("kind", "lines")](panel)
    width, height = (int(size) for size in panel.get("size", "12x8").split("x"))
    made.title(panel["title"]).datasource(SOURCE).span(width).height(height).unit(panel.get("unit", "short"))
    for name, call in (("empty", made.no_value), ("help", made.description), ("most", made.max)):
        if name in panel:
            call(panel[name])
    if "words" in panel:
        made.mappings([words(panel["words"])])
    if panel.get("colours") == "stages":
        for stage, (text, colour) in STAGES.items():
            made.override_by_name(stage, [_option("displayName", text), _option("color", _fixed(colour))])
    for number, (legend, expression) in enumerate(panel["queries"].items()):
        made.with_target(query(panel, legend, expression).ref_id(chr(ord("A") + number)))
    return made


def query(panel: Mapping[str, Any], legend: str, expression: str) -> Dataquery:
    """Figures are of now; lines are of the time that is shown."""
    text = re.sub(r"\b(CLUSTER|NODE|VM)\b", lambda found: MATCHERS[found[1]], expression)
    made = Dataquery().expr(text).legend_format(legend).datasource(SOURCE)
    return made.instant() if panel.get("kind") in ("figure", "word", "bars") else made.range()


def lines(panel: Mapping[str, Any]) -> timeseries.Panel:
    """Curves over time, with the least in the legend that tells them apart."""
    legend = common.VizLegendOptions().display_mode(look.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"])
    made = timeseries.Panel().legend(legend.placement(look.LegendPlacement.BOTTOM).show_legend(True))
    made.tooltip(common.VizTooltipOptions().mode(look.TooltipDisplayMode.MULTI).sort(look.SortOrder.DESCENDING))
    made.line_width(1).fill_opacity(10).show_points(look.VisibilityMode.NEVER).min(0)
    if "limits" in panel:
        made.thresholds(thresholds(panel, "transparent"))
        made.thresholds_style(common.GraphThresholdsStyleConfig().mode(look.GraphThresholdsStyleMode.DASHED))
    return made


def stack(panel: Mapping[str, Any]) -> timeseries.Panel:
    """Parts of a whole over time."""
    return lines(panel).fill_opacity(40).stacking(common.StackingConfig().mode(look.StackingMode.NORMAL))


def figure(panel: Mapping[str, Any]) -> stat.Panel:
    """One figure for each series, with the colour of its limits."""
    made = stat.Panel().color_mode(look.BigValueColorMode.BACKGROUND).graph_mode(look.BigValueGraphMode.NONE)
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return made.thresholds(thresholds(panel)).text_mode(look.BigValueTextMode.AUTO)


def word(panel: Mapping[str, Any]) -> stat.Panel:
    """The name of each series, large: what it is, not how much."""
    made = figure(panel).text_mode(look.BigValueTextMode.NAME)
    return made.color_scheme(build.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color("grey"))


def bars(panel: Mapping[str, Any]) -> bargauge.Panel:
    """A bar for each series."""
    made = bargauge.Panel().orientation(look.VizOrientation.HORIZONTAL).min(0).thresholds(thresholds(panel))
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return made.display_mode(look.BarGaugeDisplayMode.BASIC)


def timeline(_: Mapping[str, Any]) -> statetimeline.Panel:
    """When each series was there."""
    return statetimeline.Panel().show_value(look.VisibilityMode.NEVER).merge_values(True).fill_opacity(80)


KINDS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    kind.__name__: kind for kind in (lines, stack, figure, word, bars, timeline)
}


def thresholds(panel: Mapping[str, Any], below: str = "green") -> build.ThresholdsConfig:
    """The panel's limits, and what it looks like below the first."""
    steps = [model.Threshold(value=None, color=panel.get("colour", below))]
    steps += [model.Threshold(value=float(value), color=colour) for value, colour in panel.get("limits", {}).items()]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def words(said: Mapping[int, tuple[str, str]]) -> model.ValueMap:
    """What is shown instead of a value."""
    results = {
        str(value): model.ValueMappingResult(text=text, color=colour, index=number)
        for number, (value, (text, colour)) in enumerate(said.items())
    }
    return model.ValueMap(options=results)


def _option(name: str, value: Any) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)


def _fixed(colour: str) -> dict[str, str]:
    return {"mode": "fixed", "fixedColor": colour}


if __name__ == "__main__":
    sys.exit(main())
