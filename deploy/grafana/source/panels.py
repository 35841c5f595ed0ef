"""Panels as the dashboards use them: a title, a statement over the schema `report`, how its columns are shown.

Each builder takes Grafana's SQL with its macros and variables; `time` is the column of instants in statements that draw a course.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from grafana_foundation_sdk.builders import barchart, common, dashboard, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

DATASOURCE: Final = models.DataSourceRef(type_val="grafana-postgresql-datasource", uid="mes")
GOOD, AIM, BAD, MUTED = "#2E8B6F", "#8A94A6", "#C8503C", "#5B7FA6"
RATIO: Final = "percentunit"

Format = Literal["table", "time_series"]


class _Query(Dataquery):
    """A statement as Grafana's PostgreSQL datasource stores it."""

    def __init__(self, sql: str, form: Format) -> None:
        self._sql, self._form = sql, form

    def to_json(self) -> dict[str, Any]:
        return {
            "refId": "A",
            "datasource": DATASOURCE.to_json(),
            "editorMode": "code",
            "format": self._form,
            "rawQuery": True,
            "rawSql": self._sql,
        }


class _Sql(Builder[Dataquery]):
    def __init__(self, sql: str, form: Format) -> None:
        self._query = _Query(" ".join(sql.split()), form)

    def build(self) -> Dataquery:
        return self._query


def _value(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val=name, value=value)


def _color(color: str) -> models.DynamicConfigValue:
    return _value("color", {"mode": "fixed", "fixedColor": color})


def _legend(shown: bool) -> common.VizLegendOptions:
    placed = common.VizLegendOptions().show_legend(shown).placement(common_models.LegendPlacement.BOTTOM)
    return placed.display_mode(common_models.LegendDisplayMode.LIST)


def figures(title: str, what: str, sql: str, units: dict[str, str], span: int = 24, height: int = 4) -> stat.Panel:
    """The columns of one row, or of a row for each line, as big figures; `units` by column."""
    panel = (
        stat.Panel()
        .title(title)
        .description(what)
        .datasource(DATASOURCE)
        .with_target(_Sql(sql, "table"))
        .span(span)
        .height(height)
        .no_value("–")
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.NONE)
        .text_mode(common_models.BigValueTextMode.VALUE_AND_NAME)
        .orientation(common_models.VizOrientation.VERTICAL)
        .reduce_options(common.ReduceDataOptions().values(True).calcs(["lastNotNull"]).fields("/.*/"))
    )
    for column, unit in units.items():
        panel = panel.override_by_name(column, [_value("unit", unit), _value("decimals", 2 if unit == RATIO else 0)])
    return panel


def course(
    title: str,
    what: str,
    sql: str,
    unit: str = "short",
    colors: dict[str, str] | None = None,
    dashed: tuple[str, ...] = (),
    span: int = 12,
    height: int = 8,
    whole: bool = False,
) -> timeseries.Panel:
    """Values over time; a text column in the statement makes a line for each of its values. `whole`: the axis begins at zero."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(what)
        .datasource(DATASOURCE)
        .with_target(_Sql(sql, "time_series"))
        .span(span)
        .height(height)
        .unit(unit)
        .no_value("–")
        .line_width(2)
        .fill_opacity(0)
        .show_points(common_models.VisibilityMode.AUTO)
        .legend(_legend(True))
    )
    if whole:
        panel = panel.axis_soft_min(0)
    for column, color in (colors or {}).items():
        style = [_color(color)]
        if column in dashed:
            style.append(_value("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}))
        panel = panel.override_by_name(column, style)
    return panel


def hours(title: str, what: str, sql: str, span: int = 16, height: int = 9) -> timeseries.Panel:
    """Good cells as bars, the target as a line of steps above them."""
    panel = course(title, what, sql, "short", {"good": GOOD, "scrap": BAD, "target": AIM}, span=span, height=height, whole=True)
    bars = [_value("custom.drawStyle", "bars"), _value("custom.fillOpacity", 80), _value("custom.barAlignment", 1)]
    panel = panel.override_by_name("good", [_color(GOOD), *bars]).override_by_name("scrap", [_color(BAD), *bars])
    return panel.override_by_name("target", [_color(AIM), _value("custom.lineInterpolation", "stepAfter"), _value("custom.lineWidth", 3)])


def bars(
    title: str, what: str, sql: str, x: str, unit: str = "short", color: str = MUTED, span: int = 8, height: int = 9
) -> barchart.Panel:
    """A bar for each row, in the order of the rows."""
    return (
        barchart.Panel()
        .title(title)
        .description(what)
        .datasource(DATASOURCE)
        .with_target(_Sql(sql, "table"))
        .span(span)
        .height(height)
        .x_field(x)
        .unit(unit)
        .no_value("–")
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .show_value(common_models.VisibilityMode.ALWAYS)
        .fill_opacity(80)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color(color))
        .legend(_legend(False))
    )


def listing(
    title: str,
    what: str,
    sql: str,
    units: dict[str, str] | None = None,
    links: dict[str, str] | None = None,
    span: int = 24,
    height: int = 8,
) -> table.Panel:
    """A table; `links` by column lead to another dashboard."""
    panel = table.Panel().title(title).description(what).datasource(DATASOURCE).with_target(_Sql(sql, "table"))
    panel = panel.span(span).height(height).no_value("–")
    for column, unit in (units or {}).items():
        panel = panel.override_by_name(column, [_value("unit", unit), _value("decimals", 2 if unit == RATIO else 1)])
    for column, url in (links or {}).items():
        panel = panel.override_by_name(column, [_value("links", [{"title": "open", "url": url}])])
    return panel


def variable(name: str, label: str, sql: str, on_time: bool = False) -> dashboard.QueryVariable:
    """A choice of one of the values that a statement gives."""
    when = models.VariableRefresh.ON_TIME_RANGE_CHANGED if on_time else models.VariableRefresh.ON_DASHBOARD_LOAD
    query = " ".join(sql.split())
    made = dashboard.QueryVariable(name).label(label).datasource(DATASOURCE).query(query).refresh(when)
    return made.sort(models.VariableSort.DISABLED).include_all(False).multi(False)


LINE: Final = "SELECT line AS __value, name AS __text FROM report.line WHERE is_active ORDER BY line"


def page(uid: str, title: str, what: str, since: str, refresh: str) -> dashboard.Dashboard:
    """An empty dashboard of the plant, linked with the others."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(what)
        .tags(["mes"])
        .timezone("browser")
        .time(since, "now")
        .refresh(refresh)
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("plant")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["mes"])
            .as_dropdown(False)
            .keep_time(False)
            .include_vars(True)
        )
    )
