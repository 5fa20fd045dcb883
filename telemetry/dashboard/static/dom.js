// The page's own few words for the document. Text is always set as text: a prompt is never markup.

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A number that the style sheet reads, such as how full a tank is.
export function setVariable(node, name, value) {
  node.style.setProperty(name, value);
}

export const wantsCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
