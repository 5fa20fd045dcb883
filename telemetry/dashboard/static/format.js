// Numbers for people. What is not known is a dash.

const DASH = "–";
const isKnown = (value) => typeof value === "number" && Number.isFinite(value);

// `7.4`, `412`, `25.6k`, `1.2M`, as on the terminal.
export function human(value) {
  if (!isKnown(value)) return DASH;
  for (const [from, size, suffix] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
    if (value >= from) return `${(value / size).toFixed(1)}${suffix}`;
  }
  return value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
}

export const whole = (value) => (isKnown(value) ? Math.round(value).toLocaleString("en") : DASH);

export function percent(share, digits = share < 0.1 ? 1 : 0) {
  return isKnown(share) ? `${(100 * share).toFixed(digits)}%` : DASH;
}

// As an axis wants it: no more digits than there are.
export const tick = (share) => `${Number((100 * share).toFixed(1))}%`;

export function bytes(value) {
  if (!isKnown(value)) return DASH;
  for (const [size, unit] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= size) return `${(value / size).toFixed(value / size < 10 ? 1 : 0)} ${unit}`;
  }
  return `${value.toFixed(0)} B`;
}

// A time that a piece of work takes.
export function brief(seconds) {
  if (!isKnown(seconds)) return DASH;
  if (seconds >= 90) return span(seconds);
  if (seconds >= 1) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds >= 0.001) return `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return seconds > 0 ? `${(1e6 * seconds).toFixed(0)} µs` : "0 s";
}

// A time that passes: `0:42`, `12:07`, `3:05:10`, `2 d 4 h`.
export function span(seconds) {
  if (!isKnown(seconds)) return DASH;
  const all = Math.max(0, Math.round(seconds));
  const days = Math.floor(all / 86400), hours = Math.floor(all / 3600) % 24;
  const minutes = Math.floor(all / 60) % 60, rest = String(all % 60).padStart(2, "0");
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function timeOfDay(epochSeconds) {
  return new Date(1000 * epochSeconds).toLocaleTimeString("en-GB");
}

export function loss(value) {
  if (!isKnown(value)) return DASH;
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(4);
}

export const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
