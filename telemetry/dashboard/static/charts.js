// Curves: uPlot's canvas, with the newest value, or the one under the pointer, written above it.

import { make, setText } from "./dom.js";

const PLOT_HEIGHT = 148;
const FONT = "11px system-ui, sans-serif";

// `spec`: title, note, x (formats a value of the axis), series: [{name, color, format, scale, faint, filled, points, hidden}].
export class Chart {
  constructor(figure, spec) {
    this.spec = spec;
    this.data = null;
    this.readings = spec.series.map((series) =>
      make("span", { class: "reading", "data-color": series.color }, make("i"), make("b"), ` ${series.name}`));
    this.place = make("span", { class: "muted place" });
    this.box = make("div", { class: "plot", role: "img" });
    this.empty = make("p", { class: "empty" }, spec.empty);
    const caption = make("figcaption", {}, make("h3", {}, spec.title), this.place,
      make("p", { class: "readings" }, ...this.readings.filter((_, i) => !spec.series[i].faint)));
    figure.append(caption, this.box, this.empty);
    this.figure = figure;
    new ResizeObserver(() => this.resize()).observe(this.box);
    this.write(null);
  }

  // Columns: the values of x, then those of each series.
  show(data) {
    this.data = data;
    const isDrawn = data[0].length > 1;
    this.figure.classList.toggle("drawn", isDrawn);
    if (isDrawn && !this.plot) this.draw();
    else if (this.plot) this.plot.setData(data);
    if (!this.plot || this.plot.cursor.idx == null) this.write(null);
  }

  // After the colours have changed.
  restyle() {
    this.plot?.destroy();
    this.plot = null;
    if (this.data) this.show(this.data);
  }

  draw() {
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    const scales = { x: { time: false } };
    const axes = [{
      stroke: color("muted"), font: FONT, size: 26, gap: 4, space: 70, grid: { show: false },
      ticks: { show: false }, values: (_, values) => values.map(this.spec.x),
    }];
    for (const series of this.spec.series) {
      if (scales[series.scale]) continue;
      const isRight = axes.length > 1;
      scales[series.scale] = { range: series.range ?? ((_, low, high) => padded(low, high, series.fromZero)) };
      axes.push({
        scale: series.scale, side: isRight ? 1 : 3, stroke: isRight || this.isPaired() ? color(series.color) : color("muted"),
        font: FONT, size: 44, gap: 4, space: 26, ticks: { show: false },
        grid: { show: !isRight, stroke: color("line"), width: 1 }, values: (_, values) => values.map(series.tick ?? series.format),
      });
    }
    this.plot = new window.uPlot({
      width: this.box.clientWidth, height: PLOT_HEIGHT, padding: [8, this.isPaired() ? 0 : 12, 0, 0],
      legend: { show: false }, scales, axes,
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      series: [{}, ...this.spec.series.map((series) => ({
        scale: series.scale, stroke: color(series.faint ? `${series.color}-faint` : series.color),
        width: series.faint ? 1 : 1.8, fill: series.filled ? color(`${series.color}-wash`) : undefined,
        points: { show: Boolean(series.points), size: 5, fill: color(series.color) },
      }))],
      hooks: { setCursor: [(plot) => this.write(plot.cursor.idx)] },
    }, this.data, this.box);
  }

  isPaired() {
    return new Set(this.spec.series.map((series) => series.scale)).size > 1;
  }

  resize() {
    if (this.plot && this.box.clientWidth) this.plot.setSize({ width: this.box.clientWidth, height: PLOT_HEIGHT });
  }

  // The readings at a place of the curves; the newest for null.
  write(index) {
    const xs = this.data?.[0] ?? [];
    const at = index ?? xs.length - 1;
    this.spec.series.forEach((series, i) => {
      setText(this.readings[i].querySelector("b"), series.format(this.data?.[i + 1][at]));
    });
    setText(this.place, index === null || index === undefined ? "" : this.spec.at(xs[at]));
    this.box.setAttribute("aria-label", `${this.spec.title}: ${this.readings.map((reading) => reading.textContent).join(", ")}`);
  }
}

function padded(low, high, fromZero) {
  if (low === null || high === null) return [0, 1];
  if (fromZero) return [0, high > 0 ? 1.12 * high : 1];
  const margin = Math.max(1e-9, 0.08 * (high - low || Math.abs(high) || 1));
  return [low - margin, high + margin];
}

// A running mean over about a fifteenth of the values; what is missing is passed over.
export function smoothed(values) {
  const weight = 2 / (Math.max(1, values.length / 15) + 1);
  let mean = null;
  return values.map((value) => {
    if (value !== null) mean = mean === null ? value : mean + weight * (value - mean);
    return mean;
  });
}
