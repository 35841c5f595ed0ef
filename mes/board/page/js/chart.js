// uPlot in the colours and type of the page: drawn anew when its place changes its size or the page its colours.

const dark = matchMedia("(prefers-color-scheme: dark)");

/** A colour or size of the page by the name of its property. */
export function token(host, name) {
  return getComputedStyle(host).getPropertyValue(`--${name}`).trim();
}

/** A colour with so much of it left, for canvas. */
export function faded(colour, share) {
  return `color-mix(in srgb, ${colour} ${Math.round(share * 100)}%, transparent)`;
}

/** Size of the type in a chart, by its place. */
export function typeSize(host) {
  return parseFloat(getComputedStyle(host).fontSize);
}

export class Chart {
  /** `options(host)` are uPlot's, without size; made anew with each change of size or colours. */
  constructor(host, options) {
    this.host = host;
    this.options = options;
    this.data = null;
    this.plot = null;
    this.again = () => this.draw();
    this.watching = new ResizeObserver(() => this.resized());
    this.watching.observe(host);
    dark.addEventListener("change", this.again);
  }

  show(data) {
    this.data = data;
    if (this.plot) this.plot.setData(data);
    else this.draw();
  }

  resized() {
    const { clientWidth, clientHeight } = this.host;
    if (!this.plot || this.plot.width !== clientWidth || this.plot.height !== clientHeight) this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (!this.data || !width || !height) return;
    this.plot?.destroy();
    this.plot = new window.uPlot({ width, height, legend: { show: false }, ...this.options(this.host) }, this.data, this.host);
  }

  end() {
    this.watching.disconnect();
    dark.removeEventListener("change", this.again);
    this.plot?.destroy();
    this.plot = null;
  }
}

/** A pair of axes: type as on the page, few lines. Sizes are fixed, so that charts side by side line up. */
export function axes(host, { x, y }) {
  const size = typeSize(host);
  const font = `${size}px ${getComputedStyle(host).fontFamily}`;
  const common = { font, stroke: token(host, "muted"), ticks: { show: false } };
  return [
    { ...common, size: size * 1.7, gap: size * 0.35, grid: { show: false }, ...x },
    { ...common, size: size * 2.7, gap: size * 0.4, grid: { stroke: token(host, "faint"), width: 1 }, space: size * 3, ...y },
  ];
}

/** Cells in few characters: 850, 2.5k, 50k. */
export function brief(cells) {
  return cells >= 1000 ? `${Math.round(cells / 100) / 10}k` : String(Math.round(cells));
}
