// The line to the run: server-sent events, taken up again whenever they break off.

const RETRY_MS = [1000, 2000, 3000, 5000];
const EVENTS = ["hello", "figures", "learning", "rates", "groups", "over"];

// Calls `on[event](data)` for every message, and `on.lost(why)` while there is no line.
export function listen(on) {
  let failures = 0;

  function open() {
    const source = new EventSource("events");
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        failures = 0;
        on[name](JSON.parse(event.data));
      });
    }
    source.onerror = async () => {
      // The browser's own way of trying again gives up after an answer such as 503.
      source.close();
      const wait = RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)];
      setTimeout(open, wait);
      on.lost(await reason());
    };
  }
  open();
}

async function reason() {
  try {
    const answer = await fetch("events", { method: "HEAD", cache: "no-store" });
    if (answer.status === 401) return "This page wants its token: open the address in the trainer's log.";
    return answer.ok ? "The line broke off; trying again." : "Too many pages are open already; close one.";
  } catch {
    return "The trainer cannot be reached; trying again.";
  }
}
