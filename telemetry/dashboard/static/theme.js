// Dark or light: as the system says, or as the reader does.

import { byId } from "./dom.js";

const CHOICES = ["system", "light", "dark"];
const KEY = "penstock-theme";

// `changed` is called whenever the colours are others.
export function startTheme(changed) {
  let choice = CHOICES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "system";

  function apply() {
    if (choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    const text = `Colours: ${choice === "system" ? "as the system" : choice}`;
    byId("theme").title = `${text} (t)`;
    byId("theme").setAttribute("aria-label", text);
    changed();
  }
  function next() {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    localStorage.setItem(KEY, choice);
    apply();
  }
  apply();
  byId("theme").addEventListener("click", next);
  document.addEventListener("keydown", (event) => {
    if (event.key === "t" && !event.ctrlKey && !event.metaKey && !event.altKey) next();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
