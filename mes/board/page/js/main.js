// The page: what its address names, kept true by the stream.

import { h, put, resign } from "./dom.js";
import { LineCard } from "./line.js";
import { go, here, lineUrl, route, unitUrl } from "./router.js";
import { StationView } from "./station.js";
import { follow, known, now, stateText } from "./stream.js";
import { unitPage } from "./unit.js";

const ASK_MS = 2000; // between two questions for the same thing, and before one that failed is asked again

const main = document.getElementById("main");
const cards = new Map(); // path of a line: its card
let shown = {}; // the address as it was shown last
let asking = 0; // number of the latest question: the answer to an older one is of no interest
let stationAsked = 0;

const station = new StationView(document.getElementById("station"), () => {
  // back to where the dialog was opened from, or, where somebody came by its address, to its line
  if (history.state?.inside) history.back();
  else go(lineUrl(shown.line, shown.day), { replace: true });
});

// -- what the address names --------------------------------------------------------------------------------------------

function show() {
  const wanted = here();
  const same = wanted.view === shown.view && wanted.line === shown.line && wanted.day === shown.day && wanted.serial === shown.serial;
  shown = wanted;
  document.documentElement.toggleAttribute("data-wall", wanted.wall);
  document.getElementById("wall").href = wanted.wall ? location.pathname : `${location.pathname}${location.search ? `${location.search}&` : "?"}wall`;
  put(document.getElementById("wall"), wanted.wall ? "Leave the wall" : "Wall");
  title();
  if (!same) {
    asking += 1;
    clear();
    document.documentElement.dataset.view = wanted.view;
    if (wanted.view === "board") showBoard();
    else if (wanted.view === "line") showLine();
    else if (wanted.view === "unit") showUnit();
    else missing("There is no such page here");
    scrollTo(0, 0);
  }
  if (wanted.view === "line" && wanted.station) askStation();
  else station.hide();
}

function clear() {
  for (const name of ["--lines", "--rows"]) document.documentElement.style.removeProperty(name);
  for (const card of cards.values()) card.end();
  cards.clear();
  main.replaceChildren();
}

function title() {
  const name = known.lines.get(shown.line)?.name ?? shown.line;
  const parts = [shown.station, shown.view === "unit" ? shown.serial : null, shown.line ? name : null, shown.day].filter(Boolean);
  document.title = [...parts, "Good cells against target"].join(" · ");
}

function showBoard() {
  if (known.order === null) return;
  if (known.order.length === 0) {
    main.replaceChildren(h("p", { class: "notice" }, "No line is known yet: load the plant with ", h("code", {}, "mes seed"), "."));
    return;
  }
  const there = known.order.filter((path) => known.lines.has(path));
  if (!cards.size || [...cards.keys()].join() !== there.join()) {
    clear();
    document.documentElement.style.setProperty("--lines", String(there.length));
    document.documentElement.style.setProperty("--rows", String(Math.ceil(there.length / 2)));
    for (const path of there) add(path, new LineCard());
  }
}

function showLine() {
  if (shown.day && shown.day !== known.lines.get(shown.line)?.day?.production_day) {
    askDay();
  } else if (known.lines.has(shown.line)) {
    add(shown.line, new LineCard({ alone: true }));
  } else if (known.order !== null && !known.order.includes(shown.line)) {
    missing("There is no such line");
  }
}

/** Whether the day that was asked for is the one that runs: it is shown like that, live. */
function becameNewest() {
  const day = known.lines.get(shown.line)?.day?.production_day;
  return day === shown.day && cards.get(shown.line)?.asked !== null;
}

function add(path, card) {
  cards.set(path, card);
  main.append(card.root);
  if (known.lines.has(path) && !card.asked) card.show(known.lines.get(path));
  card.showDays(known.days.get(path) ?? []);
}

function missing(text) {
  clear();
  main.replaceChildren(h("section", { class: "missing" }, h("h1", {}, text), h("p", {}, "Go back, or ", h("a", { href: "/" }, "to the board"), ".")));
}

// -- what is asked for -------------------------------------------------------------------------------------------------

/** The answer as an object; null where there is no such thing. Asks again for as long as the server has no answer. */
async function ask(path, mine) {
  while (mine()) {
    try {
      const answer = await fetch(path, { headers: { accept: "application/json" } });
      if (answer.status === 404) return null;
      if (answer.ok) return await answer.json();
    } catch {
      // no network: the state of the page says so already
    }
    await new Promise((done) => setTimeout(done, ASK_MS));
  }
  return undefined;
}

async function askDay() {
  const number = asking;
  const { line, day } = shown;
  const found = await ask(`/api/line/${line}/${day}`, () => number === asking);
  if (number !== asking || found === undefined || cards.has(line)) return;
  if (found === null) return missing("No such production day of this line is known");
  const card = new LineCard({ alone: true, day });
  add(line, card);
  card.show(found);
}

async function showUnit() {
  const number = asking;
  const { serial } = shown;
  document.getElementById("serial").value = serial;
  const found = await ask(`/api/unit?serial=${encodeURIComponent(serial)}`, () => number === asking);
  if (number !== asking || found === undefined) return;
  if (found === null) return missing("No cell with this serial has been reported");
  main.replaceChildren(unitPage(found));
}

async function askStation() {
  const { line, day, station: code } = shown;
  const mine = () => shown.line === line && shown.day === day && shown.station === code;
  stationAsked = Date.now();
  const found = await ask(`/api/line/${line}${day ? `/${day}` : ""}/station/${encodeURIComponent(code)}`, mine);
  if (!mine() || found === undefined) return;
  if (found === null) return missing("This line has no such station");
  const row = (cards.get(line)?.line ?? known.lines.get(line))?.day?.stations.find((one) => one.station === code);
  station.show(found, row);
}

// -- what the stream brings --------------------------------------------------------------------------------------------

follow({
  figures(path) {
    if (shown.view === "board") showBoard();
    if (shown.view === "line" && shown.line === path && (shown.day ? becameNewest() : !cards.has(path))) {
      clear();
      showLine();
    }
    const card = cards.get(path);
    if (card && !card.asked) card.show(known.lines.get(path));
    if (shown.line === path) {
      title();
      if (shown.station && card) station.refresh(path, card.line.day?.stations.find((one) => one.station === shown.station));
      if (shown.station && !shown.day && Date.now() - stationAsked > ASK_MS) askStation();
    }
  },
  order() {
    if (shown.view === "board") showBoard();
    if (shown.view === "line" && !shown.day) known.order.includes(shown.line) ? cards.size || showLine() : missing("There is no such line");
  },
  days(path) {
    cards.get(path)?.showDays(known.days.get(path));
  },
  state() {
    const root = document.documentElement;
    const state = known.state === "live" || known.state === "waiting" ? known.state : "stale";
    if (root.dataset.state !== state) root.dataset.state = state;
    const element = document.getElementById("state");
    put(document.getElementById("state-text"), stateText());
    resign(element, state === "live" ? "live" : "warn");
    tick();
  },
});

/** Time passes, also where nothing comes from the server any more. */
function tick() {
  put(document.getElementById("clock"), new Date(now()).toTimeString().slice(0, 5));
  for (const card of cards.values()) card.showFreshness();
}

setInterval(tick, 1000);

document.getElementById("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const serial = document.getElementById("serial").value.trim();
  if (serial) go(unitUrl(serial));
});

route(show);
