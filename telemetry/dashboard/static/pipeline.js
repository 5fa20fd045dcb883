// The data's way as tanks and machines: where groups wait, how full it is there, and how fast they go on.

import { byId, make, setText, setVariable } from "./dom.js";
import { bytes, human, percent, plural, whole } from "./format.js";

const TANKS = {
  tickets: { name: "Tickets", what: "asked for" },
  arrived: { name: "Arrived", what: "checked, not yet taken" },
  reservoir: { name: "Reservoir", what: "kept to be used again" },
  batches: { name: "Batch", what: "ready on the device" },
};
const BOUND = { producers: "producers", trainer: "trainer", wire: "arrived", host: "batches" };
const stations = new Map();

export function show(view) {
  const queues = new Map(view.queues.map((queue) => [queue.name, queue]));
  const order = view.queues.map((queue) => queue.name);
  order.splice(order.indexOf("tickets") + 1, 0, "producers");
  order.push("trainer");
  if (order.join() !== [...stations.keys()].join()) build(order);
  for (const [name, station] of stations) {
    if (name === "producers") showProducers(station, view);
    else if (name === "trainer") showTrainer(station, view);
    else showTank(station, queues.get(name), view);
  }
  const bound = view.state === "running" ? BOUND[view.verdict.side] : undefined;
  for (const [name, station] of stations) station.node.classList.toggle("bound", name === bound);
}

function build(order) {
  stations.clear();
  const pieces = [];
  for (const name of order) {
    const isMachine = name === "producers" || name === "trainer";
    const station = {
      node: make("li", { class: isMachine ? `station machine ${name}` : "station tank", "data-name": name }),
      pipe: make("li", { class: "pipe", "aria-hidden": "true" }, make("i")),
      figure: make("b"),
      note: make("p"),
    };
    const title = TANKS[name]?.name ?? name[0].toUpperCase() + name.slice(1);
    station.title = make("h3", { title: TANKS[name]?.what }, title);
    station.node.append(make("span", { class: "level", "aria-hidden": "true" }), station.title, station.figure, station.note);
    stations.set(name, station);
    if (pieces.length) pieces.push(station.pipe);
    pieces.push(station.node);
  }
  byId("pipeline").replaceChildren(...pieces);
}

function showTank(station, queue, view) {
  setFigure(station, whole(queue.filled), ` / ${whole(queue.capacity)}`);
  const notes = {
    tickets: "asked for",
    arrived: `at ${bytes(view.bytes_per_s)}/s`,
    reservoir: `used ${view.reuse.toFixed(1)} ×`,
    batches: "ready",
  };
  setText(station.note, [notes[queue.name], queue.nbytes ? bytes(queue.nbytes) : ""].filter(Boolean).join(" · "));
  setVariable(station.node, "--level", queue.capacity ? Math.min(1, queue.filled / queue.capacity).toFixed(3) : 0);
  const rate = { arrived: view.made_per_s, reservoir: view.made_per_s, batches: view.trained_per_s }[queue.name] ?? 0;
  setPipe(station, rate);
}

function showProducers(station, view) {
  const states = view.producers_by_state;
  const working = states.ready ?? 0;
  const lost = (states.gone ?? 0) + (states.stalled ?? 0);
  const rejects = view.filtered === null ? "" : ` · ${percent(view.filtered)} rejected`;
  setFigure(station, human(view.made_per_s), " images/s");
  setText(station.note, `${plural(working, "producer")}${lost ? `, ${lost} lost` : ""}${rejects}`);
  station.node.classList.toggle("hurt", lost > 0);
  const busy = view.producers.map((producer) => producer.busy_share).filter((share) => share !== null);
  setVariable(station.node, "--level", busy.length ? busy.reduce((a, b) => a + b) / busy.length : working ? 1 : 0);
  setPipe(station, view.made_per_s);
}

function showTrainer(station, view) {
  setFigure(station, human(view.trained_per_s), " images/s");
  const share = view.flop_share === null ? "" : ` · ${percent(view.flop_share)} FLOPs`;
  setText(station.note, `waits ${percent(view.data_wait)}${share}`);
  setVariable(station.node, "--level", view.state === "running" ? 1 - view.data_wait : 0);
  setPipe(station, view.trained_per_s);
}

function setFigure(station, figure, unit) {
  if (station.figure.textContent === figure + unit) return;
  station.figure.replaceChildren(figure, make("small", {}, unit));
}

// Few speeds, so that the flow does not jump whenever a rate moves a little.
function setPipe(station, rate) {
  const speed = rate <= 0 ? "still" : rate < 10 ? "slow" : rate < 300 ? "even" : "fast";
  station.pipe.dataset.speed = speed;
}
