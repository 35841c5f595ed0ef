// A line's card: on the board beside the others, or alone with everything that is known of a day.

import { showCalendar } from "./calendar.js";
import { Course } from "./course.js";
import { duration, fields, h, keyed, put, resign, set, sign } from "./dom.js";
import { Hours } from "./hours.js";
import { lineUrl, stationUrl } from "./router.js";
import { showStations } from "./stations.js";
import { known, now } from "./stream.js";

const QUIET_S = 60; // a line without a new event for so long gets a sign
const BEHIND_S = 300; // and one whose events are so old, though they come
const DASHES = ["good", "target", "attainment", "output_yield", "rolled_throughput_yield", "scrap", "wip", "completeness", "due", "pace", "pace_per_h", "projected", "remaining_per_h", "left", "gap"];

export class LineCard {
  /** alone: whether it has the page for itself. day: a production day that was asked for, null for the newest. */
  constructor({ alone = false, day = null } = {}) {
    this.root = document.getElementById("line").content.firstElementChild.cloneNode(true);
    this.root.classList.toggle("alone", alone);
    this.field = fields(this.root);
    this.asked = day;
    this.line = null;
    this.days = [];
    this.hours = new Hours(this.root.querySelector(".hours"), this.field);
    this.course = alone ? new Course(this.root.querySelector(".course-chart")) : null;
    if (!alone) this.root.querySelector(".course-chart").remove();
  }

  show(line) {
    this.line = line;
    const { day } = line;
    const { field, root } = this;
    const text = day?.text ?? {};
    put(field.name, line.name);
    set(field.name, "href", lineUrl(line.line));
    put(field.site, line.site_name);
    put(field.date, text.date ?? "no events yet");
    for (const name of DASHES) put(field[name], text[name] ?? "–");
    put(field.projected_gap, text.projected_gap ?? "");
    const ahead = day?.target_so_far == null ? null : day.good - Math.round(day.target_so_far);
    set(field.back, "href", lineUrl(line.line));
    field.back.hidden = !this.asked;
    root.classList.toggle("wide", (text.good ?? "").length > 6);
    root.classList.toggle("without", day === null);
    root.classList.toggle("gone-by", Boolean(day?.is_over && this.asked));
    root.classList.toggle("paceless", day !== null && day.target_so_far === null);
    set(root, "data-pace", ahead === null ? "none" : ahead < 0 ? "behind" : "ahead");
    set(root, "data-end", day?.gap == null ? "none" : (day.projected ?? day.good) < day.target ? "short" : "reached");
    resign(root.querySelector(".pace"), ahead === null ? "unknown" : ahead < 0 ? "below" : "above");
    resign(root.querySelector(".still"), day?.gap == null ? "unscheduled" : day.gap < 0 ? "below" : "good");
    put(field.still, day?.is_behind ? "its events are still coming" : "the day is over");
    showAlerts(root.querySelector(".alerts"), line.alerts);
    showBar(root, day);
    this.hours.show(day);
    this.course?.show(day);
    showStations(root.querySelector(".route"), line.line, this.asked, day?.stations ?? []);
    showDefects(root.querySelector(".defects"), line.line, this.asked, day?.defects ?? []);
    this.showDays(this.days);
    this.showFreshness();
  }

  showDays(days) {
    this.days = days;
    if (this.line) showCalendar(this.root.querySelector(".calendar"), this.line.line, days, this.line.day?.production_day);
  }

  /** How old the figures are and what is wrong with them; to be called every second. */
  showFreshness() {
    if (!this.line) return;
    const { day, line } = this.line;
    const { field, root } = this;
    const untaken = known.untaken[line];
    const quiet = known.quiet[line];
    let fresh = "–";
    let trouble = "";
    if (day?.last_event_at) {
      const age = (now() - Date.parse(day.last_event_at)) / 1000;
      fresh = this.asked ? day.text.last_event_time : `${day.text.last_event_time}, ${age < 0 ? "ahead of our clock" : `${age < 3600 ? duration(age) : `${Math.floor(age / 3600)} h`} ago`}`;
      if (!this.asked && known.state === "live") {
        if (quiet >= QUIET_S) trouble = `no new event for ${duration(quiet)}`;
        else if (age >= BEHIND_S) trouble = `catching up: events are ${duration(age)} old`;
      }
    }
    if (!this.asked && line in known.untaken) {
      trouble = `nobody takes this line's messages from the broker${untaken === null ? "" : `, for ${duration((now() - Date.parse(untaken)) / 1000)}`}`;
    }
    put(field.fresh, fresh);
    put(field.trouble, trouble);
    root.querySelector(".trouble").hidden = !trouble;
    root.classList.toggle("troubled", Boolean(trouble));
    root.classList.toggle("untaken", !this.asked && line in known.untaken);
    resign(root.querySelector(".fresh"), trouble ? "warn" : "live");
    const whole = root.querySelector(".whole");
    whole.classList.toggle("lacks", (day?.completeness ?? 1) < 1);
    set(whole, "title", day?.text.missing || "every event that the machines have numbered");
  }

  end() {
    this.hours.end();
    this.course?.end();
  }
}

/** What somebody was told of, with the reason in words. */
function showAlerts(root, alerts) {
  root.hidden = alerts.length === 0;
  keyed(
    root,
    alerts,
    (alert) => alert.alert,
    () => h("li", {}, sign("warn"), h("span", {}, h("b"), " ", h("span"), " ", h("small"))),
    (element, { reason, text }) => {
      const [name, words, since] = element.lastElementChild.children;
      put(name, text.name);
      put(words, reason);
      put(since, `since ${text.since}`);
    },
  );
}

function showBar(root, day) {
  const end = Math.max(day?.good ?? 0, day?.target ?? 0, day?.projected ?? 0) || 1;
  const at = (cells) => `${(100 * cells) / end}%`;
  const part = (name) => root.querySelector(`.bar .${name}`);
  part("done").style.width = at(day?.good ?? 0);
  part("projection").style.width = at(day?.projected ?? 0);
  part("projection").hidden = day?.projected == null;
  part("due").style.left = at(day?.target_so_far ?? 0);
  part("due").hidden = day?.target_so_far == null;
  part("aim").style.left = at(day?.target ?? 0);
  part("aim").hidden = !day?.target;
}

function showDefects(root, line, day, defects) {
  root.hidden = defects.length === 0;
  const most = Math.max(1, ...defects.map((found) => found.count));
  keyed(
    root.querySelector("ol"),
    defects,
    (found) => `${found.station} ${found.defect}`,
    () => h("li", {}, h("a", {}, h("span", { class: "what" }), " ", h("small")), h("span", { class: "n" }, h("b"), " ", h("small")), h("i", { "aria-hidden": "true" })),
    (element, found) => {
      const [link, n, bar] = element.children;
      set(link, "href", stationUrl(line, day, found.station));
      put(link.querySelector(".what"), found.name);
      put(link.querySelector("small"), `${found.station} ${found.defect}`);
      put(n.querySelector("b"), found.text.count);
      put(n.querySelector("small"), found.text.share);
      bar.style.width = `${(100 * found.count) / most}%`;
    },
  );
}
