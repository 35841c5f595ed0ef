// The stream of figures, and whether they are those of now.

const SILENT_MS = 6000; // the server speaks every second: after so long the connection is dead, whatever the browser thinks
const RETRY_MS = 2000; // before asking again where the browser itself has given up

const CAUSES = { no_database: "no database", no_broker: "no broker", no_board: "no answer from the board" };

let source = null;
let heardAt = 0;
let version = null;

/** What pages know. `state` is waiting, live, no_database, no_broker or no_board; `ahead` by how much the server's clock is ahead of ours, ms. */
export const known = { state: "waiting", since: null, ahead: 0, quiet: {}, untaken: {}, order: null, lines: new Map(), days: new Map() };

/** Keep `known` true; calls changed.figures(line), changed.order(), changed.days(line), changed.state(). */
export function follow(changed) {
  const on = (name, take) => (event) => {
    heardAt = Date.now();
    take(JSON.parse(event.data));
  };
  const takes = {
    lines(order) {
      known.order = order;
      for (const path of [...known.lines.keys()]) if (!order.includes(path)) known.lines.delete(path);
      changed.order();
    },
    line(line) {
      known.lines.set(line.line, line);
      changed.figures(line.line);
    },
    days({ line, days }) {
      known.days.set(line, days);
      changed.days(line);
    },
    state(state) {
      if (version !== null && version !== state.page) {
        location.reload(); // the server has been updated under a page that hangs on a wall for months
        return;
      }
      version = state.page;
      known.ahead = Date.parse(state.now) - Date.now();
      known.quiet = state.quiet;
      known.untaken = state.untaken;
      be(state.state, state.since, changed);
    },
  };
  const connect = () => {
    source?.close();
    heardAt = Date.now();
    source = new EventSource("/events");
    const mine = source;
    for (const [name, take] of Object.entries(takes)) source.addEventListener(name, on(name, take));
    source.addEventListener("error", () => {
      gone(changed);
      if (mine.readyState === EventSource.CLOSED) setTimeout(() => mine === source && connect(), RETRY_MS);
    });
  };
  // A browser has six connections for all its pages of a server: one that nobody sees gives its own back.
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") connect();
    else source?.close();
  });
  setInterval(() => {
    if (document.visibilityState === "visible" && Date.now() - heardAt > SILENT_MS) {
      gone(changed);
      connect();
    }
  }, 1000);
  connect();
}

/** Now, by the clock of the server. */
export function now() {
  return Date.now() + known.ahead;
}

/** What the state is in words. */
export function stateText() {
  if (known.state === "live") return "live";
  if (known.state === "waiting") return "waiting for figures";
  return `${CAUSES[known.state]} ${known.since === null ? "yet" : `since ${moment(new Date(known.since))}`}`;
}

function gone(changed) {
  if (known.state === "no_board") return;
  // what was stale already stays as old as it was
  be("no_board", known.state === "live" ? new Date(heardAt).toISOString() : known.since, changed);
}

function be(state, since, changed) {
  known.state = state;
  known.since = since;
  changed.state();
}

function moment(at) {
  const two = (n) => String(n).padStart(2, "0");
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const today = at.toDateString() === new Date().toDateString();
  return today ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}
