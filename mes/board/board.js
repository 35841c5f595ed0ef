"use strict";
// Shows what /events sends. All text goes in by textContent: nothing that a machine or a seeds file says becomes markup.

const SILENT_MS = 6000; // the server speaks every second: after so long the connection is dead, whatever the browser thinks
const RETRY_MS = 2000; // before asking again where the browser itself has given up
const QUIET_S = 60; // a line without a new event for so long gets a sign

const cards = new Map(); // path of a line -> { root, fields, figures }
let source = null;
let heardAt = Date.now();
let trueAt = null; // when the figures on the page were last known to be true
let page = null;

// -- connection ------------------------------------------------------------------------------------------------------

function connect() {
  source?.close();
  heardAt = Date.now();
  source = new EventSource("/events");
  const mine = source;
  source.addEventListener("figures", (event) => {
    heardAt = Date.now();
    showLines(JSON.parse(event.data));
  });
  source.addEventListener("state", (event) => {
    heardAt = Date.now();
    showState(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    showStale();
    if (mine.readyState === EventSource.CLOSED) {
      setTimeout(() => mine === source && connect(), RETRY_MS);
    }
  });
}

setInterval(() => {
  if (Date.now() - heardAt > SILENT_MS) {
    showStale();
    connect();
  }
}, 1000);

// -- state -----------------------------------------------------------------------------------------------------------

function showState(state) {
  if (page !== null && page !== state.page) {
    location.reload(); // the server has been updated under a page that hangs on a wall for months
    return;
  }
  page = state.page;
  if (state.since !== null) trueAt = new Date(state.since);
  for (const [path, card] of cards) showQuiet(card, state.quiet[path]);
  if (state.state === "live") {
    trueAt = new Date();
    mark("live", "live");
  } else {
    showStale();
  }
}

function showStale() {
  mark("stale", trueAt === null ? "no data yet, trying again" : `no data since ${moment(trueAt)}, trying again`);
}

function mark(state, text) {
  if (document.body.dataset.state !== state) document.body.dataset.state = state;
  put(document.getElementById("state-text"), text);
}

function moment(at) {
  const two = (n) => String(n).padStart(2, "0");
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const today = at.toDateString() === new Date().toDateString();
  return today ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

// -- lines -----------------------------------------------------------------------------------------------------------

function showLines(lines) {
  const home = document.getElementById("lines");
  const paths = new Set(lines.map((line) => line.line));
  for (const [path, card] of cards) {
    if (!paths.has(path)) {
      card.root.remove();
      cards.delete(path);
    }
  }
  for (const line of lines) {
    let card = cards.get(line.line);
    if (!card) {
      card = newCard();
      cards.set(line.line, card);
    }
    if (home.children[lines.indexOf(line)] !== card.root) home.insertBefore(card.root, home.children[lines.indexOf(line)] ?? null);
    showLine(card, line);
  }
  document.getElementById("empty").hidden = lines.length > 0;
}

function newCard() {
  const root = document.getElementById("line").content.firstElementChild.cloneNode(true);
  const fields = {};
  for (const element of root.querySelectorAll("[data-field]")) fields[element.dataset.field] = element;
  const card = { root, fields, line: null };
  new ResizeObserver(() => card.line && drawHours(card)).observe(root.querySelector(".chart"));
  return card;
}

function showLine(card, line) {
  card.line = line;
  const { fields, root } = card;
  const day = line.day;
  const text = day?.text ?? {};
  put(fields.name, line.name);
  put(fields.site, line.site_name);
  put(fields.product, line.product);
  put(fields.path, line.line);
  put(fields.day, day?.production_day ?? "no events yet");
  for (const name of ["good", "target", "attainment", "output_yield", "rolled_throughput_yield", "scrap", "last_event_time"]) {
    put(fields[name], text[name] ?? "–");
  }
  put(fields.gap, text.gap ?? "");
  put(fields.last_event_date, text.last_event_date ? `${text.last_event_date}, ${line.zone}` : "");
  const reached = day !== null && day.gap !== null && day.gap >= 0;
  root.classList.toggle("reached", reached);
  root.classList.toggle("without", day === null);
  showBar(root, day);
  showTable(root.querySelector("tbody"), day?.hours ?? []);
  showPrevious(root.querySelector(".previous"), line.previous);
  drawHours(card);
}

function showBar(root, day) {
  const end = Math.max(day?.good ?? 0, day?.target ?? 0) || 1;
  root.querySelector(".done").style.width = `${(100 * (day?.good ?? 0)) / end}%`;
  const mark = root.querySelector(".mark");
  mark.hidden = !day?.target;
  mark.style.left = `${(100 * (day?.target ?? 0)) / end}%`;
}

function showQuiet(card, seconds) {
  const element = card.root.querySelector(".quiet");
  const long = seconds !== undefined && seconds >= QUIET_S && card.line?.day !== null;
  element.hidden = !long;
  if (!long) return;
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  put(card.fields.quiet, `no new event for ${hours ? `${hours} h ${minutes % 60} min` : `${minutes} min`}`);
}

function showTable(body, hours) {
  while (body.rows.length > hours.length) body.deleteRow(-1);
  hours.forEach((hour, i) => {
    const row = body.rows[i] ?? body.insertRow();
    ["hour", "good", "target", "scrap"].forEach((name, k) => put(row.cells[k] ?? row.insertCell(), hour.text[name]));
  });
}

function showPrevious(element, day) {
  element.hidden = day === null;
  if (day === null) return;
  const { good, target, attainment, output_yield, scrap } = day.text;
  const parts = [day.production_day, `${good} of ${target}`, attainment, `output yield ${output_yield}`, `scrap ${scrap}`];
  while (element.children.length < parts.length) element.append(document.createElement("span"));
  parts.forEach((text, i) => put(element.children[i], text));
}

// -- hours -----------------------------------------------------------------------------------------------------------

function drawHours({ root, line, fields }) {
  const home = root.querySelector(".chart");
  const hours = line.day?.hours ?? [];
  const targets = new Set(hours.map((hour) => hour.text.target).filter((target) => target !== "–"));
  const most = [...targets].pop();
  put(fields.hour_target, most === undefined ? "no target set" : `target ${most} an hour`);
  const width = home.clientWidth;
  const height = home.clientHeight;
  if (!width || !height) return;

  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-label", "Good cells of each hour against the hourly target; the table below holds the figures");
  const slot = width / Math.max(hours.length, 1);
  const size = Math.min(parseFloat(getComputedStyle(home).fontSize), slot * 0.46); // of the figures, which stand upright in the bars; below 9 px nobody reads them
  const sparse = slot < 24 ? 4 : slot < 36 ? 2 : 1;
  const foot = Math.max(12, Math.min(0.85 * parseFloat(getComputedStyle(home).fontSize), slot * 0.4)) * 1.5;
  const base = height - foot;
  const end = Math.max(...hours.map((hour) => Math.max(hour.good, hour.target ?? 0)), 1);
  const y = (cells) => base - (cells / end) * (base - 8);
  const last = line.day?.last_event_at ? Date.parse(line.day.last_event_at) : NaN;

  let aim = "";
  hours.forEach((hour, i) => {
    const begin = Date.parse(hour.hour_starts_at);
    const running = begin <= last && last < begin + 3600000;
    const left = i * slot;
    const group = shape("g", { class: running ? "hour running" : "hour" });
    const { hour: at, good, target, scrap } = hour.text;
    group.append(words("title", {}, `${at}  good ${good}, target ${target}, scrap ${scrap}`));
    group.append(shape("rect", { class: "touch", x: left, y: 0, width: slot, height: base }));
    if (hour.good > 0) {
      group.append(shape("rect", { class: "made", x: left + slot * 0.12, y: y(hour.good), width: slot * 0.76, height: base - y(hour.good) }));
    }
    if (size >= 9 && hour.good > 0) {
      const room = base - y(hour.good) > good.length * size * 0.75;
      const place = `translate(${left + slot / 2} ${(room ? base : y(hour.good)) - size * 0.5}) rotate(-90)`;
      group.append(words("text", { class: room ? "figure inside" : "figure", transform: place, dy: "0.36em", "font-size": size }, good));
    }
    if (hour.hour_of_day % sparse === 0) {
      group.append(words("text", { class: "clock", x: left + slot / 2, y: height - foot * 0.22, "font-size": foot / 1.5 }, at.slice(0, 2)));
    }
    if (hour.target !== null) {
      aim += `${aim ? "L" : "M"}${left} ${y(hour.target)}H${left + slot}`;
    }
    svg.append(group);
  });
  if (aim) svg.append(shape("path", { class: "aim", d: aim }));
  svg.append(shape("line", { class: "base", x1: 0, x2: width, y1: base, y2: base }));
  home.replaceChildren(svg);
}

function shape(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function words(name, attributes, text) {
  const element = shape(name, attributes);
  element.textContent = text;
  return element;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

connect();
