// The last thirty production days: how much of each target was made. The number says it, the sign says it, then the colour.

import { h, keyed, put, resign, set, sign } from "./dom.js";
import { lineUrl } from "./router.js";

const WEEKDAYS = ["Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"];

export function showCalendar(root, line, days, shown) {
  const home = root.querySelector(".days");
  const byDate = new Map(days.map((day) => [day.production_day, day]));
  const dates = thirty(days.at(-1)?.production_day);
  const first = dates.length ? (new Date(dates[0]).getUTCDay() + 6) % 7 : 0;
  const cells = [
    ...WEEKDAYS.map((name) => ({ key: name, head: name })),
    ...Array.from({ length: first }, (_, i) => ({ key: `before ${i}`, gap: true })),
    ...dates.map((date) => ({ key: byDate.has(date) ? date : `no ${date}`, date, day: byDate.get(date) })),
  ];
  keyed(home, cells, (cell) => cell.key, make, (element, cell) => cell.day && update(element, line, cell.day, shown));
  showYesterday(root.querySelector(".yesterday"), line, days);
}

function make(cell) {
  if (cell.head) return h("span", { class: "weekday", "aria-hidden": "true" }, cell.head);
  if (cell.gap) return h("span");
  if (!cell.day) return h("span", { class: "day", "data-level": "unknown", title: `${cell.date}: no events` }, h("span", { class: "number" }, String(Number(cell.date.slice(8)))));
  return h("a", { class: "day" }, h("span", { class: "number", "aria-hidden": "true" }, cell.day.text.day), h("b"), sign("unknown"));
}

/** The dates of the thirty days that end with one. */
function thirty(last) {
  if (!last) return [];
  const end = Date.parse(last);
  return Array.from({ length: 30 }, (_, i) => new Date(end - (29 - i) * 86400000).toISOString().slice(0, 10));
}

function update(element, line, day, shown) {
  const level = levelOf(day);
  set(element, "href", lineUrl(line, day.production_day));
  set(element, "data-level", level);
  set(element, "aria-label", `${day.text.date}: ${day.text.attainment} of the target, ${day.text.good} good of ${day.text.target}${day.is_over ? "" : ", so far"}`);
  set(element, "title", element.getAttribute("aria-label"));
  if (day.production_day === shown) element.setAttribute("aria-current", "date");
  else element.removeAttribute("aria-current");
  put(element.querySelector("b"), day.text.whole_percent);
  resign(element, { reached: "good", missed: "below", open: "end", none: "unscheduled" }[level]);
}

function levelOf(day) {
  if (day.attainment === null || (day.good === 0 && day.is_over)) return "none";
  if (day.attainment >= 1) return "reached";
  return day.is_over ? "missed" : "open";
}

function showYesterday(element, line, days) {
  const day = days.findLast((one) => one.is_over);
  element.hidden = !day;
  if (!day) return;
  if (!element.children.length) element.append(h("a"), " ", h("span"));
  set(element.firstElementChild, "href", lineUrl(line, day.production_day));
  put(element.firstElementChild, day.text.date);
  put(element.lastElementChild, `${day.text.good} of ${day.text.target}, ${day.text.attainment}, yield ${day.text.output_yield}`);
}
