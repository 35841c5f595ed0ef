// Elements from data. Text goes in as text only: nothing that a machine or a seeds file says becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (null and false leave one out) and children: elements or text. */
export function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A sign of the sprite, beside words that say the same. */
export function sign(name) {
  return shape("svg", { class: "sign", "aria-hidden": "true" }, shape("use", { href: `#s-${name}` }));
}

/** Change the sign that an element holds. */
export function resign(element, name) {
  const use = element.querySelector("use");
  if (use.getAttribute("href") !== `#s-${name}`) use.setAttribute("href", `#s-${name}`);
}

/** Set an element's text, touching nothing where it is the same. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function set(element, attribute, value) {
  if (element.getAttribute(attribute) !== value) element.setAttribute(attribute, value);
}

/** Make the children of `home` those of `items`, keeping the elements of keys that stay: focus and hover survive. */
export function keyed(home, items, key, make, update) {
  const there = new Map([...home.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, i) => {
    const name = String(key(item));
    let element = there.get(name);
    if (element) {
      there.delete(name);
    } else {
      element = make(item);
      element.dataset.key = name;
    }
    if (home.children[i] !== element) home.insertBefore(element, home.children[i] ?? null);
    update?.(element, item);
  });
  for (const element of there.values()) element.remove();
}

/** By name, the elements that say which field they show. */
export function fields(root) {
  return Object.fromEntries([...root.querySelectorAll("[data-field]")].map((element) => [element.dataset.field, element]));
}

const PERIODS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** Seconds as people say them: 3 s, 4 min, 2 h 5 min. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const first = PERIODS.findIndex(([, size]) => whole >= size);
  if (first < 0) return "0 s";
  const [unit, size] = PERIODS[first];
  const [next, part] = PERIODS[first + 1] ?? ["", 0];
  const rest = part ? Math.floor((whole % size) / part) : 0;
  return `${Math.floor(whole / size)} ${unit}` + (rest && first < 2 ? ` ${rest} ${next}` : "");
}
