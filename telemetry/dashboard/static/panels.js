// What is said in words and lists: verdict, stages, faults, events.

import { byId, make, setText, setVariable } from "./dom.js";
import { brief, percent, timeOfDay, whole } from "./format.js";

const SIDES = {
  producers: "Producer-bound",
  trainer: "Trainer-bound",
  host: "Host-bound",
  wire: "Wire-bound",
  balanced: "Balanced",
  "not enough data": "Not enough data yet",
};
const FAULTS = { expired: "asked for again", hedged: "late, asked twice", quarantined: "replaced by a stand-in" };
const stageRows = new Map(); // by the stage's name
let lastEvents = "";

export function showVerdict(verdict) {
  byId("verdict").dataset.side = verdict.side;
  const name = SIDES[verdict.side] ?? verdict.side[0].toUpperCase() + verdict.side.slice(1);
  setText(byId("verdict-side"), name);
  setText(byId("verdict-evidence"), verdict.evidence);
  setText(byId("verdict-next"), verdict.next_step);
}

export function showStages(stages) {
  const { sample_age: age, ...works } = stages; // an age is no work
  const shown = Object.entries(works).sort(([, a], [, b]) => b.share - a.share).slice(0, 12);
  const largest = Math.max(1e-9, ...shown.map(([, stage]) => stage.share));
  const items = shown.map(([name, stage]) => showStage(name, name.replaceAll("_", " "), stage, largest));
  if (age) items.push(showStage("sample_age", "images' age when used", age, null));
  const list = byId("stages");
  const isOther = items.length !== list.children.length || items.some((item, i) => item !== list.children[i]);
  if (isOther || !items.length) {
    list.replaceChildren(...(items.length ? items : [make("li", { class: "empty" }, "No stage has been timed yet.")]));
  }
}

// `largest`: the share that fills a bar; null for what has no share.
function showStage(key, name, stage, largest) {
  if (!stageRows.has(key)) {
    stageRows.set(key, make("li", largest === null ? { class: "age" } : {}, make("span", { class: "name" }, name),
      make("span", { class: "bar", "aria-hidden": "true" }), make("b"), make("span", { class: "muted" })));
  }
  const row = stageRows.get(key);
  setText(row.children[2], largest === null ? "" : percent(stage.share));
  setText(row.children[3], `${brief(stage.p50_s)} / ${brief(stage.p95_s)}`);
  setVariable(row, "--share", largest === null ? 0 : Math.min(1, stage.share / largest).toFixed(3));
  return row;
}

export function showFaults(view) {
  const counts = Object.entries(FAULTS).map(([name, text]) => [view[name], text]);
  counts.push(...Object.entries(view.rejects).map(([reason, count]) => [count, `refused: ${reason.replaceAll("_", " ")}`]));
  const some = counts.filter(([count]) => count > 0);
  const chips = some.map(([count, text]) => make("li", {}, make("b", {}, whole(count)), ` ${text}`));
  byId("faults").replaceChildren(...(chips.length ? chips : [make("li", { class: "none" }, "no faults")]));
}

export function showEvents(events) {
  const key = `${events.length} ${events.at(-1)?.at}`;
  if (key === lastEvents) return;
  lastEvents = key;
  const lines = [...events].reverse().map((event) => make("li", event.is_warning ? { class: "warning" } : {},
    make("time", {}, timeOfDay(event.at)), make("span", {}, event.text)));
  byId("events").replaceChildren(...(lines.length ? lines : [make("li", { class: "empty" }, "Nothing to tell yet.")]));
}
