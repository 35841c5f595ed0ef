// The life of a cell: its visits in order of time.

import { h, sign } from "./dom.js";
import { lineUrl, stationUrl } from "./router.js";

const SIGNS = { pass: "good", rework: "below", scrap: "stopped" };

export function unitPage({ unit, visits }) {
  const last = visits.at(-1);
  const body = visits.map((visit) => h("tr", { "data-result": visit.result },
    h("td", { "data-label": "time" }, visit.text.at),
    h("td", { "data-label": "station" }, h("a", { href: stationUrl(visit.line, visit.production_day, visit.station) }, visit.station), " ", h("small", {}, visit.station_name)),
    h("td", { "data-label": "machine" }, visit.machine + (visit.channel === null ? "" : `, slot ${visit.channel}`)),
    h("td", { "data-label": "attempt", class: "number" }, String(visit.attempt)),
    h("td", { "data-label": "result", class: "result" }, sign(SIGNS[visit.result]), " ", visit.result, visit.unscrapped_at ? " (taken back)" : "",
      visit.defect ? h("small", {}, ` ${visit.defect}, ${visit.defect_name}`) : null),
    h("td", { "data-label": "cycle", class: "number" }, visit.text.cycle),
    h("td", { "data-label": "readings", class: "readings" }, ...visit.text.readings.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value)))),
    h("td", { "data-label": "lots" }, ...Object.entries(visit.lots ?? {}).map(([kind, lot]) => h("span", {}, `${kind} ${lot} `))),
  ));
  return h("article", { class: "unit" },
    h("header", {}, h("h2", { id: "unit" }, unit), h("p", {}, `${visits.length} visit${visits.length === 1 ? "" : "s"} to stations of `, h("a", { href: lineUrl(last.line) }, last.line),
      `, the last on ${last.text.day}: `, sign(SIGNS[last.result]), ` ${last.result} at ${last.station}`)),
    h("div", { class: "scroll" }, h("table", { "aria-labelledby": "unit" },
      h("thead", {}, h("tr", {}, ...["time at the site", "station", "machine", "attempt", "result", "cycle", "readings", "lots"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...body))));
}
