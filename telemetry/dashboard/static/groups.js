// The newest groups under their prompts: the newest large, those before it beside it.

import { byId, make, setText } from "./dom.js";
import { plural, whole } from "./format.js";

const KEPT = 9; // groups on the page
const COLUMNS = [1, 1, 2, 3, 4, 5, 3, 4, 4, 5, 5, 6, 6]; // of the newest, by its number of images
const UNNAMED = "(an empty prompt)";
const PIXELATED_BELOW = 96; // smaller images are shown pixel by pixel

let groups = []; // the newest first
let waiting = []; // that have come while the picture is held
let pinned = null; // the group that is held large, where it is not the newest
let isHeld = false;
const cards = new Map(); // of earlier groups, by index

export function clear() {
  groups = [];
  waiting = [];
  pinned = null;
  isHeld = false;
  cards.clear();
  draw();
}

export function add(news) {
  const known = new Set([...groups, ...waiting].map((group) => group.index));
  const fresh = news.filter((group) => !known.has(group.index));
  if (isHeld) waiting = [...fresh, ...waiting].slice(0, KEPT);
  else groups = [...fresh, ...groups].slice(0, KEPT);
  draw();
}

export function toggleHold() {
  isHeld ? release() : hold(null);
}

export function release() {
  groups = [...waiting, ...groups].slice(0, KEPT);
  waiting = [];
  pinned = null;
  isHeld = false;
  draw();
}

function hold(group) {
  isHeld = true;
  pinned = group;
  draw();
}

function draw() {
  const shown = pinned ?? groups[0];
  const newest = byId("newest");
  if (!shown) newest.replaceChildren(make("p", { class: "empty" }, "Waiting for the first group."));
  else if (newest.dataset.index !== String(shown.index)) newest.replaceChildren(...large(shown));
  newest.dataset.index = shown ? shown.index : "";
  // As many as are about as high as the newest.
  const room = [4, 5].includes(shown?.images.length) ? 6 : KEPT - 1;
  byId("earlier").replaceChildren(...groups.filter((group) => group !== shown).slice(0, room).map(card));
  for (const index of cards.keys()) {
    if (!groups.some((group) => group.index === index)) cards.delete(index);
  }
  const button = byId("hold");
  button.setAttribute("aria-pressed", String(isHeld));
  setText(button, isHeld ? "Show the newest" : "Hold");
  setText(byId("groups-note"), isHeld ? `held; ${plural(waiting.length, "newer group")} waiting` : "");
}

function large(group) {
  const images = make("div", { class: "images" }, ...pictures(group));
  const columns = COLUMNS[group.images.length] ?? 6;
  images.style.setProperty("--columns", columns);
  images.style.setProperty("--most", group.images.length > columns ? "190px" : "340px");
  const left = group.num_images - group.images.length;
  const facts = [
    `group ${whole(group.index)}`,
    `by ${group.producer}`,
    `${group.num_images} × ${group.height} × ${group.width} px`,
    ...(left ? [`${left} more not shown`] : []),
  ];
  return [
    make("h3", { title: group.prompt }, group.prompt || UNNAMED),
    images,
    make("p", { class: "muted facts" }, facts.join(" · ")),
  ];
}

function card(group) {
  if (!cards.has(group.index)) {
    const button = make("button", { type: "button", title: `${group.prompt}\nClick to hold it large` });
    const images = make("span", { class: "images" }, ...pictures(group, 8));
    images.style.setProperty("--columns", Math.max(4, Math.min(8, group.images.length)));
    for (const image of images.children) image.alt = ""; // the button's name is the prompt
    button.append(make("span", { class: "prompt" }, group.prompt || UNNAMED), images);
    button.addEventListener("click", () => hold(group));
    cards.set(group.index, make("li", {}, button));
  }
  return cards.get(group.index);
}

function pictures(group, most = group.images.length) {
  return group.images.slice(0, most).map((source, place) => {
    const image = make("img", {
      src: source,
      alt: `image ${place + 1} of ${group.num_images}`,
      width: group.width,
      height: group.height,
      decoding: "async",
    });
    if (Math.max(group.width, group.height) < PIXELATED_BELOW) image.classList.add("pixels");
    image.style.setProperty("--place", place);
    return image;
  });
}
