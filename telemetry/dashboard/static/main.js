// Takes the run's news to the parts of the page.

import { Chart, smoothed } from "./charts.js";
import { byId, setText, setVariable } from "./dom.js";
import * as fleet from "./fleet.js";
import { human, loss, percent, span, tick, whole } from "./format.js";
import * as groups from "./groups.js";
import { listen } from "./link.js";
import { showEvents, showFaults, showStages, showVerdict } from "./panels.js";
import * as pipeline from "./pipeline.js";
import { startTheme } from "./theme.js";

const atStep = (step) => `at step ${whole(step)}`;
const afterTime = (seconds) => `after ${span(seconds)}`;

const charts = {
  loss: new Chart(byId("chart-loss"), {
    title: "Loss", x: human, at: atStep, empty: "No step has been reported yet.",
    series: [
      { name: "raw", color: "water", scale: "loss", format: loss, tick: (value) => String(Number(value.toPrecision(3))), faint: true },
      { name: "smoothed", color: "water", scale: "loss", format: loss },
    ],
  }),
  knn: new Chart(byId("chart-knn"), {
    title: "kNN on real images", x: human, at: atStep, empty: "Not measured yet.",
    series: [
      { name: "accuracy", color: "copper", scale: "knn", format: (value) => percent(value, 1), tick, points: true },
      { name: "RankMe", color: "moss", scale: "rankme", format: human, fromZero: true },
    ],
  }),
  rates: new Chart(byId("chart-rates"), {
    title: "Images per second", x: span, at: afterTime, empty: "Nothing has moved yet.",
    series: [
      { name: "made", color: "water", scale: "made", format: human, fromZero: true, filled: true },
      { name: "trained", color: "copper", scale: "trained", format: human, fromZero: true },
    ],
  }),
  wait: new Chart(byId("chart-wait"), {
    title: "Trainer waits for data", x: span, at: afterTime, empty: "Nothing has moved yet.",
    series: [{
      name: "of its time", color: "alarm", scale: "wait", format: (value) => percent(value, 1), tick,
      range: (_, low, high) => [0, Math.min(1, Math.max(0.1, 1.15 * high))], filled: true,
    }],
  }),
};

let hello = null;
let view = null;
let isOver = false;

listen({
  hello(news) {
    // Another life of the trainer: what it made before is over. Another version of the page: take that.
    if (hello && hello.page !== news.page) location.reload();
    if (hello && hello.life !== news.life) {
      groups.clear();
      view = null;
    }
    hello = news;
    isOver = false;
    if (!view) {
      setState("starting", "starting");
      notify("");
    }
  },
  figures(news) {
    view = news;
    showRun();
    pipeline.show(view);
    fleet.show(view);
    showVerdict(view.verdict);
    showStages(view.stages);
    showFaults(view);
    showEvents(view.events);
  },
  learning(curves) {
    const [steps, values] = columns(curves.loss);
    charts.loss.show([steps, values, smoothed(values)]);
    showTogether(curves);
  },
  rates(news) {
    charts.rates.show([news.seconds, news.made_per_s, news.trained_per_s]);
    charts.wait.show([news.seconds, news.data_wait]);
  },
  groups: groups.add,
  over(why) {
    setState("ended", "ended");
    notify(why ? `The run is over: ${why}` : "The run is over.", Boolean(why));
    isOver = true;
  },
  lost(why) {
    if (isOver) return; // it has said goodbye
    setState("lost", "no contact");
    notify(why, true);
  },
});

function columns(points) {
  return [points.map(([step]) => step), points.map(([, value]) => value)];
}

// Both are measured at the same steps, as a rule.
function showTogether(curves) {
  const steps = [...new Set([...curves.knn, ...curves.rankme].map(([step]) => step))].sort((a, b) => a - b);
  const [knn, rankme] = [new Map(curves.knn), new Map(curves.rankme)];
  charts.knn.show([steps, steps.map((step) => knn.get(step) ?? null), steps.map((step) => rankme.get(step) ?? null)]);
}

function showRun() {
  setText(byId("run-dir"), view.run_dir);
  setText(byId("run-id"), view.run_id);
  setText(byId("objective"), view.objective + (view.world_size > 1 ? `, rank ${view.rank} of ${view.world_size}` : ""));
  setText(byId("step"), whole(view.step));
  setText(byId("max-steps"), ` / ${whole(view.max_steps)}`);
  setText(byId("elapsed"), span(view.seconds));
  const share = view.max_steps ? Math.min(1, view.step / view.max_steps) : 0;
  setVariable(byId("progress"), "--share", share.toFixed(4));
  const secondsLeft = view.state !== "ended" && view.steps_per_s ? (view.max_steps - view.step) / view.steps_per_s : NaN;
  setText(byId("left"), span(secondsLeft));
  setState(view.state, view.state);
  const words = { ended: "The last step is done", waiting: "Waiting", stalled: "Nothing goes on" };
  const why = view.waiting_for ? `: ${view.waiting_for}` : "";
  notify(words[view.state] ? words[view.state] + (why || ".") : "", view.state === "stalled");
  document.title = `${percent(share, 0)} ${view.state === "running" ? "" : `${view.state} `}· penstock`;
}

function setState(state, text) {
  document.body.dataset.state = state;
  setText(byId("state"), text);
}

function notify(text, isAlarm) {
  byId("notice").hidden = !text;
  byId("notice").classList.toggle("alarm", isAlarm);
  setText(byId("notice"), text);
}

byId("hold").addEventListener("click", groups.toggleHold);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && !event.target.closest("button, a, .scroll")) {
    event.preventDefault();
    groups.toggleHold();
  } else if (event.key === "Escape") groups.release();
});
startTheme(() => Object.values(charts).forEach((chart) => chart.restyle()));
