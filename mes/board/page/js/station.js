// A station: its machines, its defects, how long its cycles take, what it measures. A dialog over its line.

import { Chart, axes, brief, token, typeSize } from "./chart.js";
import { h, keyed, put, shape, sign } from "./dom.js";
import { unitUrl } from "./router.js";
import { STATES } from "./stations.js";

const SHOWN = 0.998; // of the cycle times; the few that took longest would make all others one bar

export class StationView {
  /** `close` is called when somebody wants to leave. */
  constructor(dialog, close) {
    this.dialog = dialog;
    this.times = null;
    this.chart = null;
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close();
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest(".close")) close();
    });
  }

  /** detail: of the server. now: the station as its line shows it, or undefined. */
  show(detail, now) {
    if (this.dialog.dataset.station !== `${detail.line} ${detail.station}`) {
      this.chart?.end();
      this.dialog.dataset.station = `${detail.line} ${detail.station}`;
      this.dialog.replaceChildren(...this.frame());
      this.chart = new Chart(this.part("times").querySelector(".chart"), (host) => this.options(host));
    }
    this.detail = detail;
    put(this.dialog.querySelector("h2"), detail.text.name);
    put(this.dialog.querySelector(".where"), `${detail.name === detail.text.name ? "" : `${detail.name} · `}${detail.station} · ${detail.section} · ${detail.line_name} · ${detail.text.date}`);
    this.showFigures(detail, now);
    this.showMachines(detail);
    this.showMissed(detail.missed);
    this.showDefects(detail.defects);
    this.showTimes(detail.cycle_times, now);
    this.showCharacteristics(detail.characteristics);
    if (!this.dialog.open) {
      this.dialog.showModal();
      this.dialog.querySelector(".close").focus();
    }
  }

  hide() {
    if (this.dialog.open) this.dialog.close();
    this.chart?.end();
    this.chart = null;
    delete this.dialog.dataset.station;
    this.dialog.replaceChildren();
  }

  part(name) {
    return this.dialog.querySelector(`.${name}`);
  }

  frame() {
    const section = (name, title, ...rest) => h("section", { class: name }, h("h3", {}, title), ...rest);
    return [
      h("header", {}, h("div", {}, h("h2", { id: "station-name" }), h("p", { class: "where" })),
        h("button", { class: "close", type: "button", "aria-label": "Close" }, "✕")),
      h("dl", { class: "figures" }),
      section("machines", "Machines", h("div", { class: "scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, ...["machine", "state", "events by the hour", "events", "complete"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody")))),
      section("times", "Cycle times", h("p", { class: "note" }), h("div", { class: "chart", role: "img" })),
      section("defects", "Defects, and their share of the line's", h("ol")),
      section("missed", "Cells that missed here last", h("ul")),
      section("measures", "Characteristics", h("div", { class: "scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, ...["", "readings", "mean", "sd", "lowest", "highest", "limits"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody")))),
    ];
  }

  /** The same figures as in the line's strip, when that has new ones. */
  refresh(line, now) {
    if (this.dialog.open && this.dialog.dataset.station === `${line} ${now?.station}`) this.showFigures(this.detail, now);
  }

  showFigures({ kind }, now) {
    if (!now) return;
    const { text, state } = now;
    const figures = state === null
      ? [["good", text.good], ["rework", text.rework], ["scrap", text.scrap]]
      : [["state", STATES[state], state], [`cells an hour, ${text.window}`, text.rate], ["of what it can", text.utilisation], ["waiting before it", text.wip]];
    figures.push(["first pass yield", text.first_pass_yield], [kind === "dwell" ? "stay, median" : "cycle, median", text.cycle_p50], ["95 % within", text.cycle_p95]);
    keyed(this.part("figures"), figures, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (element, [, value, mark]) => {
      const dd = element.lastElementChild;
      if (dd.dataset.value === `${value} ${mark}`) return;
      dd.dataset.value = `${value} ${mark}`;
      dd.replaceChildren(...(mark ? [sign(mark), " "] : []), value);
    });
  }

  showMachines({ machines }) {
    const most = Math.max(1, ...machines.flatMap(({ hours }) => hours.map(([, n]) => n)));
    this.part("machines").classList.toggle("stateless", machines.every(({ state }) => !state)); // not every machine tells
    keyed(this.part("machines").querySelector("tbody"), machines, (machine) => machine.machine,
      (machine) => h("tr", {}, h("th", { scope: "row" }, machine.machine), h("td", { class: "state" }), h("td", { class: "spark" }), h("td"), h("td")),
      (row, machine) => {
        const [, state, spark, events, complete] = row.children;
        showState(state, machine.state);
        const drawn = JSON.stringify([machine.hours, most]);
        if (spark.dataset.drawn !== drawn) {
          spark.dataset.drawn = drawn;
          spark.replaceChildren(sparkline(machine.hours, most));
        }
        put(events, machine.text.received);
        put(complete, machine.text.completeness + (machine.text.lacks ? ` (${machine.text.lacks})` : ""));
        complete.classList.toggle("lacks", Boolean(machine.text.lacks));
      });
  }

  showDefects(defects) {
    const root = this.part("defects");
    root.hidden = !defects.length;
    const most = Math.max(1, ...defects.map((found) => found.count));
    keyed(root.querySelector("ol"), defects, (found) => found.defect,
      (found) => h("li", {}, h("span", {}, h("span", { class: "what" }, found.name), " ", h("small", {}, found.defect)), h("span", { class: "n" }, h("b"), " ", h("small")), h("i", { "aria-hidden": "true" })),
      (element, found) => {
        put(element.querySelector("b"), found.text.count);
        put(element.querySelector(".n small"), found.text.share);
        element.lastElementChild.style.width = `${(100 * found.count) / most}%`;
      });
  }

  showMissed(missed) {
    const root = this.part("missed");
    root.hidden = !missed.length;
    keyed(root.querySelector("ul"), missed, (visit) => `${visit.unit} ${visit.at}`,
      (visit) => h("li", {}, h("span", { class: "time" }, visit.text.at), " ", h("a", { href: unitUrl(visit.unit) }, visit.unit), " ", h("span", {}, `${visit.result}, ${visit.defect_name}`)));
  }

  showTimes(bins, now) {
    this.part("times").hidden = !bins.length;
    if (!bins.length) return;
    const all = bins.reduce((sum, [, , n]) => sum + n, 0);
    let seen = 0;
    const shown = bins.filter(([, , n]) => {
      const before = seen;
      seen += n;
      return before <= all * SHOWN;
    });
    const left = all - shown.reduce((sum, [, , n]) => sum + n, 0);
    const [unit, seconds] = shown.at(-1)[1] > 3 * 3600 ? ["h", 3600] : shown.at(-1)[1] > 600 ? ["min", 60] : ["s", 1];
    this.times = shown.map(([from, below, n]) => ({ from: from / seconds, below: below / seconds, n, density: (n * seconds) / (below - from) }));
    const beyond = left ? `; ${left.toLocaleString("en")} took longer than shown` : "";
    put(this.part("times").querySelector(".note"), `reports by cycle time in ${unit}${beyond}`);
    this.part("times").querySelector(".chart").setAttribute("aria-label",
      `Distribution of cycle times: median ${now?.text.cycle_p50 ?? "–"}, 95 % within ${now?.text.cycle_p95 ?? "–"}`);
    this.chart.show([this.times.map(({ from, below }) => (from + below) / 2), this.times.map(({ density }) => density)]);
  }

  options(host) {
    const size = typeSize(host);
    const low = () => this.times[0].from;
    const high = () => this.times.at(-1).below;
    const margin = () => (high() - low()) * 0.04;
    return {
      padding: [size * 0.4, size, 0, size],
      cursor: { show: false },
      scales: {
        x: { time: false, range: () => [Math.max(0, low() - margin()), high() + margin()] },
        y: { range: () => [0, Math.max(...this.times.map(({ density }) => density)) * 1.05] },
      },
      series: [{}, { paths: () => null, points: { show: false } }],
      axes: [{ ...axes(host, { x: {}, y: {} })[0], space: size * 4 }, { show: false }],
      hooks: { draw: [(plot) => this.drawTimes(plot)] },
    };
  }

  /** Bars as wide as their bins, so that areas are what counts. */
  drawTimes(plot) {
    const { ctx } = plot;
    ctx.save();
    ctx.fillStyle = token(this.chart.host, "made");
    const base = plot.valToPos(0, "y", true);
    for (const { from, below, density } of this.times) {
      const left = plot.valToPos(from, "x", true);
      const top = plot.valToPos(density, "y", true);
      ctx.fillRect(left, top, Math.max(1, plot.valToPos(below, "x", true) - left - devicePixelRatio), base - top);
    }
    ctx.restore();
  }

  showCharacteristics(found) {
    const root = this.part("measures");
    root.hidden = !found.length;
    keyed(root.querySelector("tbody"), found, (one) => one.characteristic,
      (one) => h("tr", {}, h("th", { scope: "row" }, one.text.name, " ", h("small", {}, one.unit)), ...Array.from({ length: 5 }, () => h("td")), h("td", { class: "limits" })),
      (row, one) => {
        ["n", "mean", "sd", "lowest", "highest"].forEach((name, i) => put(row.children[i + 1], one.text[name]));
        row.lastElementChild.replaceChildren(limits(one));
      });
  }
}

/** What a machine has last said of itself, by the names of PackML. */
function showState(element, told) {
  const words = told ? `${told.state}${told.reason ? `, ${told.reason}` : ""}` : "–";
  if (element.textContent.trim() === words) return;
  const kind = !told ? "unknown" : told.state === "execute" ? "running" : ["aborted", "aborting", "clearing", "stopped", "held", "holding"].includes(told.state) ? "stopped" : "idle";
  element.replaceChildren(sign(kind), ` ${words}`);
}

/** Events of a machine hour by hour; an hour without any is a gap. */
function sparkline(hours, most) {
  const bars = hours.map(([hour, n]) => shape("rect", { x: hour * 4, width: 3, y: 20 - (20 * n) / most, height: (20 * n) / most }));
  return shape("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img", "aria-label": `events in ${hours.length} hours` }, ...bars);
}

/** Where readings lie between their limits: a bar of mean plus and minus three sd, a tick for nominal, walls for the limits. */
function limits({ mean, sd, lowest, highest, lsl, usl, nominal, text }) {
  const words = `limits ${text.lsl} to ${text.usl}, nominal ${text.nominal}`;
  const values = [lsl, usl, nominal, lowest, highest].filter((value) => value !== null);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const x = (value) => 4 + (92 * (value - low)) / span;
  const wall = (value, name) => (value === null ? null : shape("path", { class: name, d: `M${x(value)} 2V18` }));
  const spread = mean === null || sd === null ? null : shape("rect", {
    class: "spread", x: Math.max(0, x(mean - 3 * sd)), y: 7, height: 6, width: Math.max(1, Math.min(100, x(mean + 3 * sd)) - Math.max(0, x(mean - 3 * sd))),
  });
  const range = lowest === null ? null : shape("path", { class: "range", d: `M${x(lowest)} 10H${x(highest)}` });
  const drawn = shape("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" }, range, spread, wall(nominal, "nominal"), wall(lsl, "wall"), wall(usl, "wall"));
  return h("span", { title: words }, h("small", {}, text.lsl), drawn, h("small", {}, text.usl), h("span", { class: "unseen" }, words));
}
