// The fleet as a table, those in trouble first; the row of a lost producer is red.

import { byId, make, setText, setVariable } from "./dom.js";
import { brief, human, percent, plural, whole } from "./format.js";

const COLUMNS = [
  ["name", (row) => row.name],
  ["state", (row) => row.state],
  ["rate num", (row) => human(row.images_per_s)],
  ["images num", (row) => whole(row.images)],
  ["held num", (row) => `${row.held} / ${row.credit_groups}`],
  ["busy num", (row) => percent(row.busy_share)],
  ["flops num", (row) => percent(row.flop_share)],
  ["service num", (row) => (row.p50_s === null ? "–" : `${brief(row.p50_s)} / ${brief(row.p95_s)}`)],
  ["heard num", (row) => (row.silent_s < 1 ? "now" : `${brief(row.silent_s)} ago`)],
];
const rows = new Map();

export function show(view) {
  const fastest = Math.max(1e-9, ...view.producers.map((producer) => producer.images_per_s));
  const shown = view.producers.map((producer) => showRow(producer, fastest));
  const body = byId("fleet");
  const isOther = shown.length !== body.children.length || shown.some((row, i) => row !== body.children[i]);
  if (isOther) body.replaceChildren(...shown);
  const names = new Set(view.producers.map((producer) => producer.name));
  for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
  const states = Object.entries(view.producers_by_state).map(([state, count]) => `${count} ${state}`);
  const left = view.producers_left_out ? [`${plural(view.producers_left_out, "row")} not shown`] : [];
  setText(byId("fleet-note"), [...states, ...left].join(" · ") || "Nobody has come yet.");
}

function showRow(producer, fastest) {
  if (!rows.has(producer.name)) {
    rows.set(producer.name, make("tr", {}, ...COLUMNS.map(([kind], i) =>
      make(i ? "td" : "th", i ? { class: kind } : { class: kind, scope: "row" }))));
  }
  const row = rows.get(producer.name);
  row.dataset.state = producer.state;
  COLUMNS.forEach(([, text], i) => setText(row.children[i], text(producer)));
  row.firstChild.title = [producer.device, producer.backend].filter(Boolean).join(", ");
  setVariable(row, "--share", (producer.images_per_s / fastest).toFixed(3));
  return row;
}
