// The life of a cell: its visits in order of time.

import { h, sign } from "./dom.js";
import { lineUrl, stationUrl } from "./router.js";

const SIGNS = { pass: "good", rework: "below", scrap: "stopped" };

export function unitPage({ unit, visits }) {
  const last = visits.at(-1);
  const columns = [
    ["time", "time", (visit) => [visit.text.at]],
    ["station", "station", (visit) => [h("a", { href: stationUrl(visit.line, visit.production_day, visit.station) }, visit.station), " ", h("small", {}, visit.text.station)]],
    ["machine", "", (visit) => [visit.machine + (visit.channel === null ? "" : `, slot ${visit.channel}`)]],
    ["attempt", "number", (visit) => [String(visit.attempt)]],
    ["result", "result", (visit) => [sign(SIGNS[visit.result]), " ", visit.result, visit.unscrapped_at ? " (taken back)" : "", visit.defect ? h("small", {}, ` ${visit.defect} ${visit.defect_name}`) : null]],
    ["cycle", "number", (visit) => [visit.text.cycle]],
    ["readings", "readings", (visit) => visit.text.readings.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value)))],
  ];
  if (visits.some((visit) => visit.lots)) {
    columns.push(["lots", "readings", (visit) => Object.entries(visit.lots ?? {}).map(([kind, lot]) => h("span", {}, `${kind} `, h("b", {}, lot)))]);
  }
  const row = (visit) => h("tr", { "data-result": visit.result },
    ...columns.map(([name, kind, cell]) => h("td", { class: kind, "data-label": name }, h("div", {}, ...cell(visit)))));
  return h("article", { class: "unit" },
    h("header", {},
      h("h2", { id: "unit" }, unit),
      h("p", {}, `${visits.length} visit${visits.length === 1 ? "" : "s"} to stations of `, h("a", { href: lineUrl(last.line) }, last.line),
        `; the last on ${last.text.day}: `, sign(SIGNS[last.result]), ` ${last.result} at ${last.text.station}`)),
    h("div", { class: "scroll" }, h("table", { "aria-labelledby": "unit" },
      h("thead", {}, h("tr", {}, ...columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
      h("tbody", {}, ...visits.map(row)))));
}
