// The route as a strip: each station with its rate, first pass yield, what waits before it and its state.

import { h, keyed, put, resign, set, sign } from "./dom.js";
import { stationUrl } from "./router.js";

export const STATES = {
  running: "running", stopped: "stopped", idle: "idle, nothing comes", silent: "silent", unscheduled: "not scheduled", unknown: "no event in a month",
};

/** Show the stations of a line's day; `day` names it in their addresses, null for now. */
export function showStations(root, line, day, stations) {
  const past = stations.every((station) => station.state === null);
  root.classList.toggle("past", past);
  keyed(root.querySelector("ol"), stations, (station) => station.station, make, (item, station) => update(item, line, day, station, past));
  showBottleneck(root.querySelector(".bottleneck"), stations);
}

function make(station) {
  const figure = (name, label) => h("span", { class: name }, h("span", { class: "unseen" }, ", "), h("b", { "data-field": name }), " ", h("small", { "data-field": label }));
  return h("li", {},
    h("a", {},
      h("span", { class: "code" }, sign("unknown"), station.station),
      h("span", { class: "name" }, station.text.name),
      h("span", { class: "unseen", "data-field": "state" }),
      figure("rate", "of_rate"),
      figure("fpy", "of_fpy"),
      figure("wip", "of_wip"),
      h("span", { class: "tag" }, "bottleneck"),
    ));
}

function update(item, line, day, station, past) {
  const link = item.firstElementChild;
  const { text, state } = station;
  set(link, "href", stationUrl(line, day, station.station));
  set(link, "title", `${station.name}: ${past ? `${text.inspected} inspected` : STATES[state]}`);
  set(item, "data-state", state ?? "past");
  item.classList.toggle("narrowest", station.is_bottleneck === true);
  resign(link, state ?? "unknown");
  const field = (name) => link.querySelector(`[data-field=${name}]`);
  put(field("state"), past ? "" : `, ${STATES[state]}`);
  put(field("rate"), past ? text.good : text.rate);
  put(field("of_rate"), past ? "good" : "/h");
  put(field("fpy"), text.first_pass_yield);
  put(field("of_fpy"), "FPY");
  const first = !past && station.wip_before === null; // nothing can wait before it
  put(field("wip"), past ? text.scrap : first ? "" : text.wip);
  put(field("of_wip"), past ? "scrap" : first ? "" : "waiting");
}

function showBottleneck(element, stations) {
  const found = stations.find((station) => station.is_bottleneck);
  element.hidden = !found;
  if (!found) return;
  const { text, state, station } = found;
  if (!element.children.length) {
    element.append(h("span", { class: "mark" }, sign("below"), " bottleneck"), " ", h("strong"), h("span", { class: "short" }), h("span", { class: "how" }), h("span", { class: "share" }), h("span", { class: "waits" }));
  }
  const part = (name) => element.querySelector(`.${name}`);
  put(element.querySelector("strong"), text.name);
  put(part("short"), station);
  put(part("how"), state === "stopped" ? `stopped since ${text.last_event}` : `${text.rate}/h`);
  put(part("share"), state === "stopped" ? "" : `${text.utilisation} of what it can`);
  put(part("waits"), found.wip_before === null ? "" : `${text.wip} waiting`);
}
