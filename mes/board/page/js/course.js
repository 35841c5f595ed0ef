// The day as it adds up: good cells, what was due by the scheduled time, and where it ends at this pace.

import { Chart, axes, brief, faded, token, typeSize } from "./chart.js";

const HOUR_MS = 3600000;

export class Course {
  constructor(root) {
    this.host = root.querySelector(".chart");
    this.chart = new Chart(this.host, (host) => this.options(host));
    this.end_x = 24;
    this.most = 1;
  }

  show(day) {
    if (!day) return;
    const starts = Date.parse(day.starts_at);
    this.hours = day.hours;
    this.end_x = (Date.parse(day.ends_at) - starts) / HOUR_MS;
    const over = day.is_over || day.last_event_at === null;
    const until = over ? this.end_x : Math.min(this.end_x, (Date.parse(day.last_event_at) - starts) / HOUR_MS);
    const points = new Map([[0, { good: 0, due: 0 }]]);
    let good = 0;
    let due = 0;
    let known = true;
    day.hours.forEach((hour, i) => {
      const to = Math.min(i + 1, this.end_x);
      good += hour.good;
      known &&= hour.target !== null;
      due += hour.target ?? 0;
      const point = { good: to <= until || over ? good : null, due: known ? due : null };
      points.set(to, point);
      if (i < until && until < to) points.set(until, { good: day.good, due: null, end: day.projected === null ? null : day.good });
    });
    if (day.projected !== null) points.set(this.end_x, { ...points.get(this.end_x), end: day.projected });
    const xs = [...points.keys()].sort((a, b) => a - b);
    this.most = Math.max(1, day.target ?? 0, day.good, day.projected ?? 0);
    const column = (name) => xs.map((x) => points.get(x)[name] ?? null);
    this.chart.show([xs, column("good"), column("due"), column("end")]);
    const { text } = day;
    const heading = day.projected === null ? "" : `, at this pace ${text.projected} at its end`;
    this.host.setAttribute("aria-label", `${text.good} good cells so far, ${day.target_so_far === null ? text.target + " the target" : text.due + " due by now"}${heading}.`);
  }

  options(host) {
    const made = token(host, "made");
    const size = typeSize(host);
    const line = { points: { show: false }, spanGaps: true };
    return {
      padding: [size * 0.5, size, 0, 0],
      cursor: { show: false },
      scales: { x: { time: false, range: () => [0, this.end_x] }, y: { range: () => [0, this.most * 1.04] } },
      series: [
        {},
        { ...line, stroke: made, width: 4, fill: faded(made, 0.12) },
        { ...line, stroke: token(host, "aim"), width: 2.5 },
        { ...line, stroke: made, width: 2.5, dash: [7, 6] },
      ],
      axes: axes(host, {
        x: { splits: () => [0, 4, 8, 12, 16, 20].filter((i) => i < this.end_x), values: (_, at) => at.map((i) => this.hours?.[i]?.text.hour ?? "") },
        y: { values: (_, at) => at.map(brief) },
      }),
    };
  }

  end() {
    this.chart.end();
  }
}
