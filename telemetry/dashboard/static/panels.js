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
  const note = age ? `; images are ${brief(age.p50_s)} old when they are used` : "";
  setText(byId("stages-note"), `of this process, p50 / p95${note}`);
  const shown = Object.entries(works).sort(([, a], [, b]) => b.share - a.share).slice(0, 12);
  const largest = Math.max(1e-9, ...shown.map(([, stage]) => stage.share));
  byId("stages").replaceChildren(...shown.map(([name, stage]) => {
    const item = make("li", {}, make("span", { class: "name" }, name.replaceAll("_", " ")),
      make("span", { class: "bar", "aria-hidden": "true" }), make("b", {}, percent(stage.share)),
      make("span", { class: "muted" }, `${brief(stage.p50_s)} / ${brief(stage.p95_s)}`));
    setVariable(item, "--share", Math.min(1, stage.share / largest).toFixed(3));
    return item;
  }));
  if (!shown.length) byId("stages").replaceChildren(make("li", { class: "empty" }, "No stage has been timed yet."));
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
