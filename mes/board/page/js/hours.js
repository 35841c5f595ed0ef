// Good cells by the hour against what each hour owes; and the same as a table.

import { Chart, axes, brief, faded, token, typeSize } from "./chart.js";
import { put } from "./dom.js";

export class Hours {
  constructor(root, field) {
    this.root = root;
    this.field = field;
    this.host = root.querySelector(".chart");
    this.body = root.querySelector("tbody");
    this.hours = [];
    this.running = -1;
    this.chart = new Chart(this.host, (host) => this.options(host));
  }

  show(day) {
    this.hours = day?.hours ?? [];
    const last = day && !day.is_over && day.last_event_at ? Date.parse(day.last_event_at) : NaN;
    this.running = this.hours.findIndex((hour) => Date.parse(hour.hour_starts_at) <= last && last < Date.parse(hour.hour_starts_at) + 3600000);
    const good = this.hours.map((hour) => hour.good);
    this.chart.show([
      this.hours.map((_, i) => i),
      good.map((n, i) => (i === this.running ? null : n)),
      good.map((n, i) => (i === this.running ? n : null)),
    ]);
    this.host.setAttribute("aria-label", this.words());
    this.table();
    this.read(null);
  }

  options(host) {
    const size = typeSize(host);
    const made = token(host, "made");
    const bars = window.uPlot.paths.bars({ size: [0.74, 90], radius: 0.08 });
    return {
      padding: [size * 0.5, 2, 0, 0],
      cursor: { x: false, y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: () => [-0.5, Math.max(this.hours.length, 1) - 0.5] }, y: { range: () => [0, this.most() * 1.06] } },
      series: [
        {},
        { paths: bars, fill: made, stroke: made, width: 0, points: { show: false } },
        { paths: bars, fill: faded(made, 0.3), stroke: made, width: 2, dash: [5, 4], points: { show: false } },
      ],
      axes: axes(host, {
        x: { splits: () => this.marks(host), values: (_, at) => at.map((i) => this.hours[i]?.text.hour.slice(0, 2) ?? "") },
        y: { values: (_, at) => at.map(brief) },
      }),
      hooks: { draw: [(plot) => this.drawTargets(plot)], setCursor: [(plot) => this.read(plot.cursor.idx)] },
    };
  }

  most() {
    return Math.max(1, ...this.hours.map((hour) => Math.max(hour.good, hour.target ?? 0)));
  }

  /** As many hours are named as there is room for. */
  marks(host) {
    const room = (host.clientWidth - typeSize(host) * 3) / Math.max(this.hours.length, 1);
    const step = [1, 2, 3, 4, 6, 12].find((n) => n * room >= typeSize(host) * 1.9) ?? 12;
    return this.hours.map((_, i) => i).filter((i) => i % step === 0);
  }

  drawTargets(plot) {
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = token(this.host, "aim");
    ctx.lineWidth = Math.max(2, typeSize(this.host) * 0.2) * devicePixelRatio;
    ctx.setLineDash([]);
    ctx.beginPath();
    this.hours.forEach((hour, i) => {
      if (hour.target === null) return;
      const y = plot.valToPos(hour.target, "y", true);
      const before = this.hours[i - 1]?.target ?? null;
      ctx[before === null ? "moveTo" : "lineTo"](plot.valToPos(i - 0.5, "x", true), y);
      ctx.lineTo(plot.valToPos(i + 0.5, "x", true), y);
    });
    ctx.stroke();
    ctx.restore();
  }

  /** The hour under the pointer in words. */
  read(i) {
    const hour = this.hours[i];
    put(this.field.reading, hour ? `${hour.text.hour}: ${hour.text.good} of ${hour.text.target}, scrap ${hour.text.scrap}` : "");
  }

  words() {
    const done = this.hours.filter((hour, i) => hour.good > 0 && i !== this.running);
    const met = done.filter((hour) => hour.target !== null && hour.good >= hour.target).length;
    return `Good cells of each hour against its target: ${met} of ${done.length} hours with cells have met it. The table below holds the figures.`;
  }

  table() {
    while (this.body.rows.length > this.hours.length) this.body.deleteRow(-1);
    this.hours.forEach((hour, i) => {
      const row = this.body.rows[i] ?? this.body.insertRow();
      ["hour", "good", "target", "scrap"].forEach((name, k) => put(row.cells[k] ?? row.insertCell(), hour.text[name]));
    });
  }

  end() {
    this.chart.end();
  }
}
