// Addresses: each line, day, station and cell has one, and the back button leads where people came from.
//
//   /                                    every line            ?wall on any of them: type for a hall
//   /line/SITE/AREA/CODE                 a line now
//   /line/SITE/AREA/CODE/DAY             a line on a production day
//   /line/SITE/AREA/CODE[/DAY]/station/CODE
//   /unit?serial=SERIAL                  the life of a cell

const LINE = /^\/line\/([^/]+\/[^/]+\/[^/]+)(?:\/(\d{4}-\d{2}-\d{2}))?(?:\/station\/([^/]+))?\/?$/;

let shown = () => {};

/** What an address shows: view, and line, day, station or serial. */
export function parse(url) {
  const wall = url.searchParams.has("wall");
  if (url.pathname === "/") return { view: "board", wall };
  if (url.pathname === "/unit") return { view: "unit", serial: (url.searchParams.get("serial") ?? "").trim(), wall };
  const match = LINE.exec(decodeURI(url.pathname));
  return match ? { view: "line", line: match[1], day: match[2] ?? null, station: match[3] ?? null, wall } : { view: "nothing", wall };
}

export function here() {
  return parse(new URL(location.href));
}

function walled(path) {
  return here().wall ? path + (path.includes("?") ? "&wall" : "?wall") : path;
}

export function lineUrl(line, day = null) {
  return walled(`/line/${line}${day ? `/${day}` : ""}`);
}

export function stationUrl(line, day, station) {
  return walled(`/line/${line}${day ? `/${day}` : ""}/station/${station}`);
}

export function unitUrl(serial) {
  return walled(`/unit?serial=${encodeURIComponent(serial)}`);
}

/** Go to an address of ours without loading the page anew. */
export function go(href, { replace = false } = {}) {
  const url = new URL(href, location.href);
  if (url.href === location.href) return;
  history[replace ? "replaceState" : "pushState"]({ inside: true }, "", url);
  shown();
}

/** Call `show` now, and whenever the address has changed. */
export function route(show) {
  shown = show;
  addEventListener("popstate", () => shown());
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || link.dataset.plain !== undefined || url.hash || link.target) return;
    event.preventDefault();
    go(url.href);
  });
  show();
}
